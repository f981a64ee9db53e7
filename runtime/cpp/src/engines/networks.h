// The engines of one bundle, loaded together, and where they run.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "bundle/bundle.h"
#include "engines/engine.h"
#include "queue/queue.h"

namespace himar::core {

struct Device {
    bool is_gpu = false;
    int index = 0;  // of the GPU

    // Read "cpu", "cuda" or "cuda:1"; EngineError for anything else.
    static Device parse(const std::string& text);
};

// Engines that are loaded when a lane first needs them, once for all lanes. Thread-safe.
class DeferredEngines {
public:
    using Load = std::function<std::unique_ptr<Engine>()>;

    explicit DeferredEngines(std::map<std::string, Load> loads) : loads_(std::move(loads)) {}

    bool has(const std::string& component) const { return loads_.count(component) > 0; }

    // An engine of a component that it has, for the lane of `queue`. EngineError where it does not load.
    std::unique_ptr<Engine> engine(const std::string& component, const std::shared_ptr<Queue>& queue);

private:
    const std::map<std::string, Load> loads_;
    std::mutex lock_;
    std::map<std::string, std::unique_ptr<Engine>> loaded_;
};

// One engine per component, by its name.
struct Networks {
    std::shared_ptr<Queue> queue;  // that the engines run on
    std::map<std::string, std::unique_ptr<Engine>> engines;
    std::shared_ptr<DeferredEngines> deferred{};            // null where there are none
    std::map<std::string, std::unique_ptr<Engine>> late{};  // those of them that this lane has needed

    Engine* find(const std::string& component) const;  // null where the bundle has none
    Engine* decoder() const { return find("vae_decoder"); }

    // Of a deferred component, loaded now if no lane has needed it; null where the bundle has none.
    Engine* need(const std::string& component);

    // Engines for another lane. Any thread may call it, also during a run.
    Networks clone() const;

    void forget_places();

    // Why runs cannot be recorded in a CUDA graph, after the first engine that has a reason; empty when they can.
    std::string without_recording() const;
};

// What to load engines for: a device, and a backend in place of the bundle's own or "".
struct LoadRequest {
    std::string device = "cpu";  // "cpu", "cuda" or "cuda:N"
    std::string backend;
    int threads = 0;  // CPU threads that one run of an engine uses, 0 for default_threads()
};

// Open a bundle to load its engines. Where graphs are kept with packed weights (engines/ort/packed.h), the bundle's own may
// not be read: each of its files is hashed before it is read, and all at once otherwise. What check_request and Bundle::open
// throw, in this order.
Bundle open_bundle(const std::filesystem::path& path, const LoadRequest& request);

// Load every engine of a bundle. BundleError when a component is missing, EngineError when an engine cannot run here.
Networks load_networks(const Bundle& bundle, const LoadRequest& request);

// InputError for `threads` below 0, EngineError for a device that is none. Called before the bundle is opened: an error
// costs no time then.
Device check_request(const LoadRequest& request);

}  // namespace himar::core
