#include "engines/tensorrt/engine.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <set>
#include <utility>

#include "engines/tensorrt/contexts.h"
#include "error.h"
#include "text.h"

namespace himar::core {
namespace tensorrt {
namespace {

class TensorRTEngine final : public Engine {
public:
    TensorRTEngine(std::shared_ptr<Loaded> loaded, std::shared_ptr<cuda::CudaQueue> queue)
        : contexts_(std::move(loaded), std::move(queue)) {}

    const ComponentSpec& spec() const override { return contexts_.loaded()->spec; }
    void run(Places places) override { contexts_.enqueue(places); }
    void forget_places() override { contexts_.forget(); }
    std::string without_recording() const override { return ""; }

    std::unique_ptr<Engine> clone(const std::shared_ptr<Queue>& queue) const override {
        auto gpu = std::dynamic_pointer_cast<cuda::CudaQueue>(queue);
        if (gpu == nullptr)
            throw EngineError("the engine of " + spec().name + " runs only on an NVIDIA GPU; clone it for a queue of one.");
        return std::make_unique<TensorRTEngine>(contexts_.loaded(), std::move(gpu));
    }

private:
    Contexts contexts_;
};

struct TypeName {
    nvinfer1::DataType type;
    const char* manifest;
    const char* tensorrt;
};
constexpr TypeName kTypes[] = {{nvinfer1::DataType::kFLOAT, "float32", "FLOAT"},
                               {nvinfer1::DataType::kHALF, "float16", "HALF"},
                               {nvinfer1::DataType::kINT64, "int64", "INT64"}};

void check_type(const std::string& path, const TensorSpec& tensor, nvinfer1::DataType found) {
    std::string shown = "type " + std::to_string(static_cast<int>(found));
    for (const TypeName& type : kTypes) {
        if (type.type != found) continue;
        if (tensor.dtype == type.manifest) return;
        shown = type.tensorrt;
    }
    throw EngineError(tensor.name + " in " + path + " is " + shown + ", but the manifest says " + tensor.dtype +
                      "; build the bundle again.");
}

// EngineError unless the engine has the component's tensors, in their types.
void check_tensors(const std::string& path, const ComponentSpec& spec, const nvinfer1::ICudaEngine& engine) {
    std::set<std::string> found, wanted;
    for (std::int32_t i = 0; i < engine.getNbIOTensors(); ++i) found.insert(engine.getIOTensorName(i));
    for (const auto* tensors : {&spec.inputs, &spec.outputs})
        for (const TensorSpec& tensor : *tensors) wanted.insert(tensor.name);
    if (found != wanted)
        throw EngineError(path + " has the tensors " + joined({found.begin(), found.end()}) + ", but " + spec.name +
                          " has " + joined({wanted.begin(), wanted.end()}) +
                          "; build the bundle again.");
    for (const auto* tensors : {&spec.inputs, &spec.outputs})
        for (const TensorSpec& tensor : *tensors)
            check_type(path, tensor, engine.getTensorDataType(tensor.name.c_str()));
}

std::string content_of(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (!file.good() && !file.eof()) throw EngineError(path.string() + " cannot be read: " + std::strerror(errno) + ".");
    return content;
}

}  // namespace
}  // namespace tensorrt

bool has_tensorrt() { return true; }

std::string tensorrt_headers_version() {
    return std::to_string(NV_TENSORRT_MAJOR) + "." + std::to_string(NV_TENSORRT_MINOR);
}

std::unique_ptr<Engine> load_tensorrt_engine(const std::filesystem::path& path, const ComponentSpec& spec,
                                             const BackendInfo& built, const std::shared_ptr<cuda::CudaQueue>& queue) {
    using namespace tensorrt;
    const Library& library = Library::installed();
    check_fit(spec.name, built, library.version(), queue->capability());
    queue->make_current();
    auto loaded = std::make_shared<Loaded>();
    loaded->gpu = queue->another();
    loaded->spec = spec;
    loaded->runtime = library.make_runtime();
    // Such an engine carries host code, the runtime of the version that built it: load only bundles you trust.
    if (built.version_compatible) loaded->runtime->setEngineHostCodeAllowed(true);
    {
        const CollectedErrors errors;
        const std::string content = content_of(path);
        loaded->engine.reset(loaded->runtime->deserializeCudaEngine(content.data(), content.size()));
        if (loaded->engine == nullptr)
            throw EngineError(path.string() + " does not load with " + library.version().name + " " +
                              library.version().version + ": " + errors.first() +
                              "; build the bundle again on this machine.");
    }
    check_tensors(path.string(), spec, *loaded->engine);
    return std::make_unique<TensorRTEngine>(std::move(loaded), queue);
}

}  // namespace himar::core
