// What a step takes out of a transformer's outputs, and the search for values that are not finite.
#pragma once

#include "block.cuh"
#include "state.cuh"

namespace himar {

// Gathers the revealed rows of a phase: the MLP head's conditions of every half, and the pivots of the conditional
// half, which lead both halves of phase high.
//
// head_condition (H·B·r, W), pivots (2B, S, D); condition (H·B, S, W), engine_pivots (H·B, S, D), revealed (B, r).
// W = 0 gathers no condition (a DiT head takes all rows), D = 0 no pivots. A value that is not finite is a fault of the
// phase's transformer. One block copies one row at a time.
template <class Block>
HIMAR_FN void reveal_low(Block& block, u32*, float* head_condition, float* pivots, const float* condition,
                         const float* engine_pivots, const u32* revealed, const StepState* state, u32* fault, u32 batch,
                         u32 halves, u32 S, u32 r, u32 W, u32 D) {
    const u32 step = state->step, conditions = W > 0 ? halves * batch * r : 0;
    const u32 rows = conditions + (D > 0 ? batch * r : 0);
    const u32 component = state->phase == kPhaseLow ? kTransformerLow : kTransformerHigh;
    const bool wide_condition = rows_are_wide(W, head_condition, condition);
    const bool wide_pivots = rows_are_wide(D, pivots, engine_pivots);
    for (u32 row = block.index(); row < rows; row += block.count()) {
        const bool is_condition = row < conditions;
        const u32 m = is_condition ? row : row - conditions;  // half, image and place among the revealed
        const u32 image = m / r % batch;
        const u64 site = static_cast<u64>(m / r) * S + revealed[static_cast<u64>(image) * r + m % r];
        const u32 width = is_condition ? W : D;
        const bool wide = is_condition ? wide_condition : wide_pivots;
        const float* const from = (is_condition ? condition : engine_pivots) + site * width;
        float* const to = is_condition ? head_condition + static_cast<u64>(m) * width : pivots + site * width;
        float* const also = is_condition ? nullptr : to + static_cast<u64>(batch) * S * width;
        block.sync();
        block.for_each((width + 3) / 4, [&](u32 quad) {
            const u32 first = 4 * quad, count = width - first;
            const Quad values = load_quad(from + first, count, wide);
            store_quad(to + first, values, count, wide);
            if (also != nullptr) store_quad(also + first, values, count, wide);
            if (!all_finite(values)) note_fault(fault, component, step);
        });
    }
}

// Notes a fault of `component` unless all `count` values are finite.
template <class Block>
HIMAR_FN void check_finite(Block& block, u32*, const float* values, u64 count, const StepState* state, u32* fault,
                           u32 component) {
    const u32 step = state->step;
    const bool wide = rows_are_wide(4, values);
    block.for_each_in_grid((count + 3) / 4, [&](u64 quad) {
        const u64 left = count - 4 * quad;
        const Quad four = load_quad(values + 4 * quad, left < 4 ? static_cast<u32>(left) : 4, wide && left >= 4);
        if (!all_finite(four)) note_fault(fault, component, step);
    });
}

}  // namespace himar
