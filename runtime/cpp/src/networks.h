// The engines of one bundle, loaded together.
#pragma once

#include <memory>
#include <string>

#include "bundle.h"
#include "engine.h"

namespace himar::core {

// One engine per component; `vae_decoder` is null in a bundle that gives latents only.
struct Networks {
    std::unique_ptr<Engine> transformer_low, transformer_high, mlp_head, dit_head, vae_decoder;

    Networks clone() const;
    void forget_places();
};

// What to load engines for: a device ("cpu", "cuda", "cuda:N"), and a backend in place of the bundle's own or "".
struct LoadRequest {
    std::string device = "cpu";
    std::string backend;
    int threads = 0;  // CPU threads of one operator, 0 for all cores
};

// InputError for `threads` below 0; EngineError for a device that is none, or that this library has no engines for.
// Called before the bundle is opened: an error costs no time then.
void check_device(const LoadRequest& request);

// Load every engine of a bundle. BundleError when a component is missing, EngineError when an engine cannot run here.
Networks load_networks(const Bundle& bundle, const LoadRequest& request);

}  // namespace himar::core
