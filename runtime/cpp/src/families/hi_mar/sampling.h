// The settings of one generation, as himar_kernels.families.hi_mar.SamplingConfig has them.
#pragma once

#include <cstdint>
#include <string>

namespace himar::core {

// Every setting by its name, which manifests, recipes and the C interface share, in the order of recipes.
#define HIMAR_HI_MAR_SETTINGS(X)                                                                          \
    X(low_steps) X(high_steps) X(low_guidance) X(high_guidance) X(guidance_schedule) X(temperature)       \
    X(low_diffusion_steps) X(high_diffusion_steps) X(low_solver) X(high_solver)

struct Sampling {
    std::int64_t low_steps = 32, high_steps = 4;
    double low_guidance = 1.0, high_guidance = 1.0;
    std::string guidance_schedule = "linear";  // or "constant"
    double temperature = 1.0;
    std::int64_t low_diffusion_steps = 100, high_diffusion_steps = 250;
    std::string low_solver = "ddpm", high_solver = "ddpm";  // or "ddim", "dpm++": see chain.h

    // InputError, naming the field, for a value out of range.
    void check() const;

    // InputError unless every step of each phase can reveal at least one of its positions. With a single scale, low = 0,
    // the low settings say nothing.
    void check_positions(std::int64_t low, std::int64_t high) const;
};

}  // namespace himar::core
