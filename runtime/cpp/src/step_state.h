// What a step's kernels start from (himar_kernels/families/hi_mar/device_state.py).
#pragma once

#include "kernels.h"
#include "schedule.h"

namespace himar::core {

// k starts at chain_length - 1.
inline StepState step_state(const Step& step, std::int64_t chain_length, std::uint64_t seed, double temperature) {
    StepState state{};
    state.seed = seed;
    state.phase = static_cast<u32>(step.phase);
    state.step = static_cast<u32>(step.index);
    state.masked = static_cast<u32>(step.masked);
    state.revealed = static_cast<u32>(step.revealed);
    state.chain_length = static_cast<u32>(chain_length);
    state.k = state.chain_length - 1;
    state.guidance = static_cast<float>(step.guidance);
    state.temperature = static_cast<float>(temperature);
    return state;
}

}  // namespace himar::core
