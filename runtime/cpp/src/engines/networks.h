// The engines of one bundle, loaded together, and where they run.
#pragma once

#include <map>
#include <memory>
#include <string>

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

// One engine per component, by its name.
struct Networks {
    std::shared_ptr<Queue> queue;  // that the engines run on
    std::map<std::string, std::unique_ptr<Engine>> engines;

    Engine* find(const std::string& component) const;  // null where the bundle has none
    Engine* decoder() const { return find("vae_decoder"); }

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

// Load every engine of a bundle. BundleError when a component is missing, EngineError when an engine cannot run here.
Networks load_networks(const Bundle& bundle, const LoadRequest& request);

// InputError for `threads` below 0, EngineError for a device that is none. Called before the bundle is opened: an error
// costs no time then.
Device check_request(const LoadRequest& request);

}  // namespace himar::core
