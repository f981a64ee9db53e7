#include "networks.h"

#include <algorithm>

#include "cuda/device.h"
#include "error.h"
#include "ort_engine.h"
#include "tensorrt/engine.h"
#include "text.h"

namespace himar::core {
namespace {

constexpr const char* kOrt = "onnxruntime";
constexpr const char* kRequired[] = {"transformer_low", "transformer_high", "mlp_head", "dit_head"};

std::string place_of(const Bundle& bundle, const ComponentSpec& spec) {
    return spec.name + " in " + bundle.root().string();
}

// What runs a component; EngineError where the bundle has no such engine.
std::string backend_of(const Bundle& bundle, const ComponentSpec& spec, const LoadRequest& request) {
    const std::string wanted = request.backend.empty() ? spec.backend : request.backend;
    if (wanted != kOrt && wanted != spec.backend)
        throw EngineError(place_of(bundle, spec) + " has an engine for " + in_quotes(spec.backend) + ", not for " +
                          in_quotes(wanted) + "; ask for " + in_quotes(spec.backend) +
                          (spec.backend == kOrt ? "." : ", or for 'onnxruntime', which runs its ONNX graph."));
    return wanted;
}

// EngineError for an engine that this build, or this device, cannot run.
void check_backend(const Bundle& bundle, const ComponentSpec& spec, const std::string& wanted, const Device& device) {
    if (wanted == kOrt) return;
    const std::string what = place_of(bundle, spec) + " is an engine for ";
    if (wanted != "tensorrt" && wanted != "tensorrt-rtx")
        throw EngineError(what + in_quotes(wanted) + ", which this himar does not know: build the bundle for onnxruntime "
                          "or tensorrt, or install himar " + bundle.manifest().himar_version + ", which built it.");
    if (!device.is_gpu)
        throw EngineError(what + wanted + ", which needs an NVIDIA GPU; use device 'cuda', or backend 'onnxruntime' to "
                          "run the bundle's ONNX graphs on the CPU.");
    if (wanted == "tensorrt-rtx")
        throw EngineError(what + "tensorrt-rtx, which himar's C++ runtime does not run; use backend 'onnxruntime' to run "
                          "the bundle's ONNX graphs, or himar's Python runtime.");
    if (!has_tensorrt())
        throw EngineError(what + "tensorrt, which this build of himar's C++ runtime was made without; configure it with "
                          "-DHIMAR_TENSORRT=ON, or use backend 'onnxruntime' to run the bundle's ONNX graphs.");
}

std::unique_ptr<Engine> load_engine(const Bundle& bundle, const ComponentSpec& spec, const LoadRequest& request,
                                    const std::shared_ptr<cuda::CudaDevice>& lane) {
    if (backend_of(bundle, spec, request) != kOrt)
        return load_tensorrt_engine(bundle.path(spec.engine_file), spec, bundle.manifest().backend, lane);
    return load_ort_engine(bundle.path(spec.backend == kOrt ? spec.engine_file : spec.file), spec, request.threads, lane);
}

// Width of the condition that a head takes.
std::int64_t condition_width(const Engine& head) {
    constexpr std::int64_t most = 1 << 20;
    for (const TensorSpec& tensor : head.spec().inputs) {
        if (tensor.name != "condition" || tensor.shape.empty()) continue;
        const auto* const width = std::get_if<std::int64_t>(&tensor.shape.back());
        if (width != nullptr && *width <= most) return *width;
    }
    throw BundleError(head.spec().name + " has no input condition of a fixed width; build the bundle again.");
}

}  // namespace

Networks Networks::clone() const {
    const std::shared_ptr<ResidentDevice> other = lane == nullptr ? nullptr : lane->another();
    const auto cloned = [&](const std::unique_ptr<Engine>& engine) {
        return engine == nullptr ? nullptr : engine->clone(other);
    };
    return {other, cloned(transformer_low), cloned(transformer_high), cloned(mlp_head), cloned(dit_head),
            cloned(vae_decoder)};
}

std::vector<Engine*> Networks::all() const {
    std::vector<Engine*> engines;
    for (Engine* const engine :
         {transformer_low.get(), transformer_high.get(), mlp_head.get(), dit_head.get(), vae_decoder.get()})
        if (engine != nullptr) engines.push_back(engine);
    return engines;
}

void Networks::forget_places() {
    for (Engine* const engine : all()) engine->forget_places();
}

std::string Networks::without_recording() const {
    for (const Engine* const engine : all())
        if (std::string why = engine->without_recording(); !why.empty()) return why;
    return "";
}

Widths Networks::widths() const { return {condition_width(*mlp_head), condition_width(*dit_head)}; }

Device check_request(const LoadRequest& request) {
    const Device device = Device::parse(request.device);
    if (request.threads < 0)
        throw InputError("threads is " + std::to_string(request.threads) +
                         "; it must be a whole number of at least 1, or 0 for the default.");
    return device;
}

Networks load_networks(const Bundle& bundle, const LoadRequest& request) {
    const auto& components = bundle.manifest().components;
    std::string missing;
    for (const char* name : kRequired)
        if (components.count(name) == 0) missing += (missing.empty() ? "" : ", ") + std::string(name);
    if (!missing.empty())
        throw BundleError(bundle.root().string() + " lacks the component " + missing + "; build the bundle again.");
    const Device device = check_request(request);
    bool any_ort = false;
    for (const auto& [name, spec] : components) {
        if (name != "vae_decoder" && std::find(std::begin(kRequired), std::end(kRequired), name) == std::end(kRequired))
            continue;
        const std::string wanted = backend_of(bundle, spec, request);
        check_backend(bundle, spec, wanted, device);
        any_ort |= wanted == kOrt;
    }
    // A session of ONNX Runtime is bound to one stream, so all lanes of such engines share it.
    const auto lane = device.is_gpu ? cuda::CudaDevice::open(device.index, any_ort) : nullptr;
    const auto load = [&](const char* name) -> std::unique_ptr<Engine> {
        const auto found = components.find(name);
        return found == components.end() ? nullptr : load_engine(bundle, found->second, request, lane);
    };
    return {lane, load("transformer_low"), load("transformer_high"), load("mlp_head"), load("dit_head"),
            load("vae_decoder")};
}

}  // namespace himar::core
