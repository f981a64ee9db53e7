#include "engines/networks.h"

#include <algorithm>
#include <vector>

#include "engines/ort/engine.h"
#include "engines/ort/packed.h"
#include "engines/tensorrt/engine.h"
#include "error.h"
#include "queue/cuda/queue.h"
#include "queue/host/queue.h"
#include "text.h"

namespace himar::core {
namespace {

constexpr const char* kOrt = "onnxruntime";
constexpr const char* kDecoder = "vae_decoder";

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
                                    const std::shared_ptr<cuda::CudaQueue>& queue) {
    if (backend_of(bundle, spec, request) != kOrt)
        return load_tensorrt_engine(bundle.path(spec.engine_file), spec, bundle.manifest().backend, queue);
    const std::string& file = spec.backend == kOrt ? spec.engine_file : spec.file;
    return load_ort_engine(bundle.place(file), spec, request.threads, content_of(bundle, file), queue);
}

}  // namespace

Device Device::parse(const std::string& text) {
    if (text == "cpu") return {};
    if (text == "cuda") return {true, 0};
    const std::string number = text.rfind("cuda:", 0) == 0 ? text.substr(5) : "";
    // No machine has a GPU of more digits, and more would not fit.
    if (number.empty() || number.size() > 6 || number.find_first_not_of("0123456789") != std::string::npos)
        throw EngineError("device is " + in_quotes(text) + "; it must be 'cpu', 'cuda' or 'cuda:N' with a GPU's number.");
    return {true, std::stoi(number)};
}

Engine* Networks::find(const std::string& component) const {
    const auto found = engines.find(component);
    return found == engines.end() ? nullptr : found->second.get();
}

std::unique_ptr<Engine> DeferredEngines::engine(const std::string& component, const std::shared_ptr<Queue>& queue) {
    const std::lock_guard<std::mutex> lock(lock_);
    auto found = loaded_.find(component);
    if (found == loaded_.end()) found = loaded_.emplace(component, loads_.at(component)()).first;
    return found->second->clone(queue);
}

Engine* Networks::need(const std::string& component) {
    if (const auto found = late.find(component); found != late.end()) return found->second.get();
    if (deferred == nullptr || !deferred->has(component)) return nullptr;
    return late.emplace(component, deferred->engine(component, queue)).first->second.get();
}

// `late` is its lane's alone: a run may be adding to it.
Networks Networks::clone() const {
    Networks other{queue->another(), {}, deferred};
    for (const auto& [name, engine] : engines) other.engines[name] = engine->clone(other.queue);
    return other;
}

void Networks::forget_places() {
    for (const auto* const all : {&engines, &late})
        for (const auto& [name, engine] : *all) engine->forget_places();
}

std::string Networks::without_recording() const {
    for (const auto& [name, engine] : engines)
        if (std::string why = engine->without_recording(); !why.empty()) return why;
    return "";
}

Device check_request(const LoadRequest& request) {
    const Device device = Device::parse(request.device);
    if (request.threads < 0)
        throw InputError("threads is " + std::to_string(request.threads) +
                         "; it must be a whole number of at least 1, or 0 for the default.");
    return device;
}

Bundle open_bundle(const std::filesystem::path& path, const LoadRequest& request) {
    return Bundle::open(path, !check_request(request).is_gpu && keeps_packed());
}

Networks load_networks(const Bundle& bundle, const LoadRequest& request) {
    const auto& components = bundle.manifest().components;
    std::vector<std::string> names = bundle.manifest().model->components(), missing;
    for (const std::string& name : names)
        if (components.count(name) == 0) missing.push_back(name);
    if (!missing.empty())
        throw BundleError(bundle.root().string() + " lacks the component " + joined(missing) + "; build the bundle again.");
    if (components.count(kDecoder) > 0 && std::find(names.begin(), names.end(), kDecoder) == names.end())
        names.emplace_back(kDecoder);
    const Device device = check_request(request);
    bool any_ort = false;
    for (const std::string& name : names) {
        const std::string wanted = backend_of(bundle, components.at(name), request);
        check_backend(bundle, components.at(name), wanted, device);
        any_ort |= wanted == kOrt;
    }
    // A session of ONNX Runtime is bound to one stream, so all lanes of such engines share it.
    const auto gpu = device.is_gpu ? cuda::CudaQueue::open(device.index, any_ort) : nullptr;
    Networks networks;
    networks.queue = gpu;
    if (gpu == nullptr) networks.queue = std::make_shared<HostQueue>();
    for (const std::string& name : names) networks.engines[name] = load_engine(bundle, components.at(name), request, gpu);
    std::map<std::string, DeferredEngines::Load> later;
    for (const std::string& name : bundle.manifest().model->deferred())
        if (components.count(name) > 0)
            later[name] = [bundle, name, request, device, gpu] {
                const ComponentSpec& spec = bundle.manifest().components.at(name);
                check_backend(bundle, spec, backend_of(bundle, spec, request), device);
                return load_engine(bundle, spec, request, gpu);
            };
    if (!later.empty()) networks.deferred = std::make_shared<DeferredEngines>(std::move(later));
    return networks;
}

}  // namespace himar::core
