// In place of engine.cpp in a build without TensorRT.
#include "engines/tensorrt/engine.h"
#include "error.h"

namespace himar::core {

bool has_tensorrt() { return false; }

std::string tensorrt_headers_version() { return ""; }

std::unique_ptr<Engine> load_tensorrt_engine(const std::filesystem::path& path, const ComponentSpec&, const BackendInfo&,
                                             const std::shared_ptr<cuda::CudaQueue>&) {
    throw EngineError(path.string() + " is an engine for tensorrt, which this build of himar's C++ runtime was made "
                      "without; configure it with -DHIMAR_TENSORRT=ON.");
}

}  // namespace himar::core
