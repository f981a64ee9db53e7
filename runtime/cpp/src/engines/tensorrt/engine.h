// Engines of TensorRT, or of its lean runtime, on tensors in a GPU's memory.
//
// Compiled in with HIMAR_TENSORRT; the library itself is opened when a bundle needs it (library.h).
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "engines/engine.h"
#include "queue/cuda/queue.h"

namespace himar::core {

// Whether this build runs engines of TensorRT, and the version of the headers it was compiled with, such as "11.1".
bool has_tensorrt();
std::string tensorrt_headers_version();

// Load an engine file that `built` describes. EngineError: TensorRT is not compiled in or not installed, another version
// of it, another GPU, a damaged file, an engine of another component.
std::unique_ptr<Engine> load_tensorrt_engine(const std::filesystem::path& path, const ComponentSpec& spec,
                                             const BackendInfo& built, const std::shared_ptr<cuda::CudaQueue>& queue);

}  // namespace himar::core
