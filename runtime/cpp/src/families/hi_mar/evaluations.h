// Which evaluations of a head its chain runs: the others are forecast, or run the conditional half alone. Both are optional
// (himar_kernels/families/hi_mar/forecast.py); the kernels that keep and forecast predictions are those of forecast.cuh.
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

    // How many halves run at each index k = 0 … steps-1 of a chain; 0 where the noise is forecast. halves: 2 under
    // guidance, else 1.
    std::vector<std::int64_t> halves(std::int64_t steps, std::int64_t halves) const;

    // Whether a chain may run fewer halves than it has; then predictions are kept.
    bool leaves_out() const { return interval > 1 || guidance_interval > 1; }
};

}  // namespace himar::core::hi_mar
