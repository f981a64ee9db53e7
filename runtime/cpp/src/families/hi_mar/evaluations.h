// Which evaluations of a head its chain runs: the others are forecast, or run the conditional half alone; and which make a
// DiT head's modulations. All is optional (himar_kernels/families/hi_mar/forecast.py); the kernels that keep and forecast
// predictions are those of forecast.cuh.
#pragma once

#include <cstdint>
#include <vector>

namespace himar::core::hi_mar {

struct Evaluations {
    static constexpr std::int64_t kMostOrder = 2;
    static constexpr std::int64_t kWidestSecondOrder = 4;  // interval from which on order 2 diverges: docs/forecast.md

    std::int64_t interval = 1;           // every so many-th index is evaluated between the first and the last ones
    std::int64_t order = 1;              // of a forecast, 0 … kMostOrder
    std::int64_t first = 8, last = 3;    // indices at either end of the chain, all evaluated
    std::int64_t guidance_interval = 1;  // every so many-th evaluation runs both halves, the others the conditional one
    std::int64_t modulation_interval = 1;  // every so many-th evaluation makes a DiT head's modulations, the others hold them

    // How many halves run at each index k = 0 … steps-1 of a chain; 0 where the noise is forecast. halves: 2 under
    // guidance, else 1.
    std::vector<std::int64_t> halves(std::int64_t steps, std::int64_t halves) const;

    // Of how many halves modulations are made at each k; 0 where they are held. An evaluation takes the modulations of its
    // group's conditional half, or of both; one of both halves after one of the conditional half alone makes them again.
    // halves: of the chain, as `halves` gives them.
    std::vector<std::int64_t> modulated(const std::vector<std::int64_t>& halves) const;

    // The timesteps of a chain that a DiT head takes: those of each group's first evaluation; where no evaluation runs the
    // timestep stays.
    std::vector<long long> held_timesteps(const std::vector<long long>& timesteps,
                                          const std::vector<std::int64_t>& halves) const;

    // Whether a chain may run fewer halves than it has; then predictions are kept.
    bool leaves_out() const { return interval > 1 || guidance_interval > 1; }
};

}  // namespace himar::core::hi_mar
