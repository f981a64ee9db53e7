// Whether engines fit the TensorRT library and the GPU of this machine, from what the manifest says of them.
#pragma once

#include <string>

#include "bundle/manifest.h"
#include "queue/cuda/queue.h"

namespace himar::core {

// The library that would run the engines, for example {"tensorrt_lean", "11.4.0.106", true}.
struct TensorRTVersion {
    std::string name, version;
    bool lean;  // runs version-compatible engines only
};

// EngineError unless the engine of component `name`, built as `built` says, runs with this library on a GPU of this
// compute capability. A library of another version runs only version-compatible engines.
void check_fit(const std::string& name, const BackendInfo& built, const TensorRTVersion& library,
               cuda::Capability capability);

}  // namespace himar::core
