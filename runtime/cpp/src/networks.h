// The engines of one bundle, loaded together.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "buffers.h"
#include "bundle.h"
#include "device.h"
#include "engine.h"
#include "resident/device.h"

namespace himar::core {

// One engine per component; `vae_decoder` is null in a bundle that gives latents only.
struct Networks {
    std::shared_ptr<ResidentDevice> lane;  // of the GPU that the engines run on; null on the CPU
    std::unique_ptr<Engine> transformer_low, transformer_high, mlp_head, dit_head, vae_decoder;

    // Engines for another lane. Any thread may call it, also during a run.
    Networks clone() const;

    std::vector<Engine*> all() const;  // those that there are
    void forget_places();

    // Why runs cannot be recorded in a CUDA graph, after the first engine that has a reason; empty when they can.
    std::string without_recording() const;

    // BundleError when a head's condition has no fixed width.
    Widths widths() const;
};

// What to load engines for: a device, and a backend in place of the bundle's own or "".
struct LoadRequest {
    std::string device = "cpu";  // "cpu", "cuda" or "cuda:N"
    std::string backend;
    int threads = 0;  // CPU threads of one operator, 0 for default_threads()
};

// Load every engine of a bundle. BundleError when a component is missing, EngineError when an engine cannot run here.
Networks load_networks(const Bundle& bundle, const LoadRequest& request);

// InputError for `threads` below 0, EngineError for a device that is none. Called before the bundle is opened: an error
// costs no time then.
Device check_request(const LoadRequest& request);

}  // namespace himar::core
