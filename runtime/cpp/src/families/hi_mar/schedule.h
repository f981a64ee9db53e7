// How many tokens each autoregressive step reveals, and under which guidance (himar_kernels/schedule.py).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "families/hi_mar/sampling.h"

namespace himar::core::hi_mar {

// One autoregressive step. It reveals the positions order[masked - revealed … masked) of every image's order.
struct Step {
    std::size_t stage;          // index of its phase among the model's
    bool is_low;                // which phase that is
    std::int64_t index;         // counts the steps of the phase from 0
    std::int64_t masked;        // m_i, positions still masked before the step
    std::int64_t masked_after;  // m_{i+1} as the guidance formula takes it; at the last step it is 1, not 0
    std::int64_t revealed;      // positions the step fixes; at the last step all that are left
    double guidance;            // 1 where it is below the settings' least_guidance
    std::int64_t diffusion_steps;  // length of the head's chain in this step

    // 2 under guidance, where rows are [conditional; unconditional].
    std::int64_t halves() const { return guidance == 1 ? 1 : 2; }
    const char* phase_name() const { return is_low ? "low" : "high"; }
};

// m_0 … m_T of a phase with n positions and T steps: m_0 = n, m_{i+1} = max(1, min(m_i - 1, floor(n·cos(π/2·(i+1)/T)))).
std::vector<std::int64_t> masked_counts(std::int64_t positions, std::int64_t steps);

// Guidance of a step after which `masked_after` of `positions` are masked, all of a phase. "linear" is 1 + (scale - 1)·(n - m_{i+1})/n
// with every operation rounded to float32, as the released model does.
double guidance_at(const std::string& schedule, double scale, std::int64_t positions, std::int64_t masked_after);

// How many positions of each phase an edit draws.
struct DrawnCounts {
    std::int64_t low, high;

    bool operator==(const DrawnCounts& other) const { return low == other.low && high == other.high; }
};

// All steps of a run: phase low, then phase high; low_positions = 0 is a single scale, phase high alone. InputError when a
// phase has fewer positions than steps.
//
// drawn: of an edit. A phase that draws m positions begins with those masked and takes k = min(T, m) of its T steps, none
// where m is 0; step i takes entry floor((i+1)·T/k) - 1 of a list of T values, so that the last takes the last.
std::vector<Step> plan(const Sampling& sampling, std::int64_t low_positions, std::int64_t high_positions,
                       const std::optional<DrawnCounts>& drawn = std::nullopt);

}  // namespace himar::core::hi_mar
