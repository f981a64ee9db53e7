#include "result.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace himar::core {

std::string recipe(const Request& request, std::size_t place, const std::string& bundle_id) {
    const Sampling& sampling = request.sampling;
    nlohmann::ordered_json settings = {
        {"low_steps", sampling.low_steps},
        {"high_steps", sampling.high_steps},
        {"low_guidance", sampling.low_guidance},
        {"high_guidance", sampling.high_guidance},
        {"guidance_schedule", sampling.guidance_schedule},
        {"temperature", sampling.temperature},
        {"low_diffusion_steps", sampling.low_diffusion_steps},
        {"high_diffusion_steps", sampling.high_diffusion_steps},
    };
    // Readers from before solvers take every recipe that they can follow, and refuse the others.
    if (sampling.low_solver != "ddpm") settings["low_solver"] = sampling.low_solver;
    if (sampling.high_solver != "ddpm") settings["high_solver"] = sampling.high_solver;
    const nlohmann::ordered_json values = {
        {"seed", request.draws == nullptr ? nlohmann::ordered_json(request.seed) : nlohmann::ordered_json()},
        {"index", request.first_index + place},
        {"label", request.labels[place]},
        {"sampling", std::move(settings)},
        {"bundle", bundle_id},
        {"himar_version", HIMAR_VERSION_TEXT},
    };
    return values.dump();
}

}  // namespace himar::core
