// The library of our operators for ONNX Runtime, which half-precision sessions on a GPU load.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "warnings.h"

namespace himar::core {

// The file that $HIMAR_FUSED_LIBRARY names. Without it the graphs' own functions run, which take more passes over memory:
// none, which is said once per process, unless the variable is there and empty. EngineError where it names no file.
std::optional<std::filesystem::path> fused_library(const std::function<void(const std::string&)>& say = warn);

}  // namespace himar::core
