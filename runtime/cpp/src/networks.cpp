#include "networks.h"

#include "error.h"
#include "ort_engine.h"
#include "text.h"

namespace himar::core {
namespace {

constexpr const char* kOrt = "onnxruntime";

bool is_gpu_backend(const std::string& name) { return name == "tensorrt" || name == "tensorrt-rtx"; }

std::unique_ptr<Engine> cloned(const std::unique_ptr<Engine>& engine) {
    return engine == nullptr ? nullptr : engine->clone();
}

std::unique_ptr<Engine> load_engine(const Bundle& bundle, const ComponentSpec& spec, const LoadRequest& request) {
    const std::string wanted = request.backend.empty() ? spec.backend : request.backend;
    if (wanted != kOrt && wanted != spec.backend)
        throw EngineError(spec.name + " in " + bundle.root().string() + " has an engine for " + in_quotes(spec.backend) +
                          ", not for " + in_quotes(wanted) + "; ask for " + in_quotes(spec.backend) +
                          ", or for 'onnxruntime', which runs its ONNX graph.");
    if (wanted == kOrt)
        return load_ort_engine(bundle.path(spec.backend == kOrt ? spec.engine_file : spec.file), spec, request.threads);
    if (is_gpu_backend(wanted))
        throw EngineError(spec.name + " in " + bundle.root().string() + " is an engine for " + wanted +
                          ", which this build of himar's C++ runtime has no support for; use backend 'onnxruntime' to "
                          "run the bundle's ONNX graphs on the CPU, or himar's Python runtime for a GPU.");
    throw EngineError(spec.name + " in " + bundle.root().string() + " is an engine for " + in_quotes(wanted) +
                      ", which this himar does not know: build the bundle for onnxruntime, or install himar " +
                      bundle.manifest().himar_version + ", which built it.");
}

}  // namespace

Networks Networks::clone() const {
    return {cloned(transformer_low), cloned(transformer_high), cloned(mlp_head), cloned(dit_head), cloned(vae_decoder)};
}

void Networks::forget_places() {
    for (Engine* engine : {transformer_low.get(), transformer_high.get(), mlp_head.get(), dit_head.get(), vae_decoder.get()})
        if (engine != nullptr) engine->forget_places();
}

void check_device(const LoadRequest& request) {
    const std::string& device = request.device;
    const bool numbered = device.rfind("cuda:", 0) == 0 && device.size() > 5 &&
                          device.find_first_not_of("0123456789", 5) == std::string::npos;
    if (device != "cpu" && device != "cuda" && !numbered)
        throw EngineError("device is " + in_quotes(device) + "; it must be 'cpu', 'cuda' or 'cuda:N' with a GPU's number.");
    if (device != "cpu")
        throw EngineError("device is " + in_quotes(device) + ", but this build of himar's C++ runtime runs on the CPU only; "
                          "use device 'cpu', or himar's Python runtime for a GPU.");
    if (request.threads < 0)
        throw InputError("threads is " + std::to_string(request.threads) +
                         "; it must be a whole number of at least 1, or 0 for all cores.");
}

Networks load_networks(const Bundle& bundle, const LoadRequest& request) {
    const auto& components = bundle.manifest().components;
    std::string missing;
    for (const char* name : {"transformer_low", "transformer_high", "mlp_head", "dit_head"})
        if (components.count(name) == 0) missing += (missing.empty() ? "" : ", ") + std::string(name);
    if (!missing.empty())
        throw BundleError(bundle.root().string() + " lacks the component " + missing + "; build the bundle again.");
    const auto load = [&](const char* name) -> std::unique_ptr<Engine> {
        const auto found = components.find(name);
        return found == components.end() ? nullptr : load_engine(bundle, found->second, request);
    };
    return {load("transformer_low"), load("transformer_high"), load("mlp_head"), load("dit_head"), load("vae_decoder")};
}

}  // namespace himar::core
