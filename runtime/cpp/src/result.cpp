#include "result.h"

#include <nlohmann/json.hpp>

namespace himar::core {

std::string recipe(const Request& request, std::size_t place, const std::string& bundle_id) {
    const Sampling& sampling = request.sampling;
    const nlohmann::ordered_json values = {
        {"seed", request.draws == nullptr ? nlohmann::ordered_json(request.seed) : nlohmann::ordered_json()},
        {"index", request.first_index + place},
        {"label", request.labels[place]},
        {"sampling",
         {{"low_steps", sampling.low_steps},
          {"high_steps", sampling.high_steps},
          {"low_guidance", sampling.low_guidance},
          {"high_guidance", sampling.high_guidance},
          {"guidance_schedule", sampling.guidance_schedule},
          {"temperature", sampling.temperature},
          {"low_diffusion_steps", sampling.low_diffusion_steps},
          {"high_diffusion_steps", sampling.high_diffusion_steps}}},
        {"bundle", bundle_id},
        {"himar_version", HIMAR_VERSION_TEXT},
    };
    return values.dump();
}

}  // namespace himar::core
