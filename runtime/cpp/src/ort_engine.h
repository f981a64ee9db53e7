// Engines that ONNX Runtime runs on the CPU.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "engine.h"

namespace himar::core {

// Load a component's ONNX model. threads: CPU threads of one operator, 0 for all cores.
// EngineError: bfloat16, which ONNX Runtime cannot run on the CPU, or a model that does not load.
std::unique_ptr<Engine> load_ort_engine(const std::filesystem::path& path, const ComponentSpec& spec, int threads);

// The version of the ONNX Runtime that is linked, for example "1.31.0".
std::string ort_version();

}  // namespace himar::core
