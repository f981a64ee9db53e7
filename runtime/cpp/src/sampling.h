// The knobs of one generation, as himar_kernels.families.hi_mar.SamplingConfig has them.
#pragma once

#include <cstdint>
#include <string>

namespace himar::core {

struct Sampling {
    std::int64_t low_steps = 32, high_steps = 4;
    double low_guidance = 1.0, high_guidance = 1.0;
    std::string guidance_schedule = "linear";  // or "constant"
    double temperature = 1.0;
    std::int64_t low_diffusion_steps = 100, high_diffusion_steps = 250;
    std::string low_solver = "ddpm", high_solver = "ddpm";  // or "ddim", "dpm++": see solver_chain.h

    // InputError, naming the field, for a value out of range.
    void check() const;

    // InputError unless every step of each phase can reveal at least one of its positions.
    void check_positions(std::int64_t low, std::int64_t high) const;
};

}  // namespace himar::core
