// Predictions that a chain keeps, and the noise forecast from them where a head is not evaluated
// (himar_kernels/families/hi_mar/forecast.py).
#pragma once

#include "block.cuh"
#include "diffusion.cuh"

namespace himar {

// After an evaluation at state->k: guidance, and the differences to the evaluation before. The last block then notes k.
//
// prediction (E·rows, outputs, C) of E = `evaluated` halves: ε, and v of an MLP head, which has two outputs. settled
// (H·rows, outputs, C) is what reverse steps take as their prediction: after guidance and in every half, so that theirs
// changes nothing. differences (order + 1, rows, outputs, C): D_o of forecast.py. gap (rows, C): ε of the conditional
// half less that of the other, kept where both ran and used where one did under guidance.
template <class Block>
HIMAR_FN void keep_prediction(Block& block, u32* shared, float* settled, float* differences, float* gap,
                              StepState* state, const float* prediction, u32 rows, u32 halves, u32 evaluated, u32 order,
                              u32 outputs, u32 C) {
    const u32 k = state->k, before = state->evaluations, kept = before < order ? before : order;
    const float guidance = state->guidance;
    const float width = static_cast<float>(k) - static_cast<float>(state->evaluated_at);
    const u64 size = static_cast<u64>(rows) * outputs * C;
    const bool wide = rows_are_wide(C, settled, differences, gap, prediction);
    block.for_each_in_grid(static_cast<u64>(rows) * outputs * ((C + 3) / 4), [&](u64 item) {
        const QuadSite site(item, C);  // its row counts rows and their outputs
        Quad newest = load_quad(prediction + site.offset, site.count, wide);
        if (guidance != 1.0f && site.row % outputs == 0) {
            float* const own_gap = gap + static_cast<u64>(site.row / outputs) * C + 4 * site.quad;
            Quad between;
            if (evaluated == 2) {
                const Quad unconditional = load_quad(prediction + size + site.offset, site.count, wide);
                for (int lane = 0; lane < 4; ++lane) {
                    between.value[lane] = newest.value[lane] - unconditional.value[lane];
                    newest.value[lane] = guided(newest.value[lane], unconditional.value[lane], guidance);
                }
                store_quad(own_gap, between, site.count, wide);
            } else {
                between = load_quad(own_gap, site.count, wide);
                for (int lane = 0; lane < 4; ++lane)
                    newest.value[lane] = newest.value[lane] + (guidance - 1.0f) * between.value[lane];
            }
        }
        store_halves(settled, site, newest, size, halves, wide);
        for (u32 o = 0; o < kept; ++o) {
            float* const difference = differences + o * size + site.offset;
            const Quad older = load_quad(difference, site.count, wide);
            store_quad(difference, newest, site.count, wide);
            for (int lane = 0; lane < 4; ++lane)
                newest.value[lane] = (newest.value[lane] - older.value[lane]) / width;
        }
        store_quad(differences + kept * size + site.offset, newest, site.count, wide);
    });
    if (is_last_block(block, &state->tickets, shared))
        block.once([&] {
            state->evaluations = before + 1;
            state->evaluated_at = k;
            state->tickets = 0;
        });
}

// Where the head is not evaluated: settled (H·rows, outputs, C) from the differences, as keep_prediction leaves both.
template <class Block>
HIMAR_FN void forecast(Block& block, u32*, float* settled, const float* differences, const StepState* state, u32 rows,
                       u32 halves, u32 order, u32 outputs, u32 C) {
    const u32 known = state->evaluations - 1, most = known < order ? known : order;
    const float x = static_cast<float>(state->k) - static_cast<float>(state->evaluated_at);
    const u64 size = static_cast<u64>(rows) * outputs * C;
    const bool wide = rows_are_wide(C, settled, differences);
    block.for_each_in_grid(static_cast<u64>(rows) * outputs * ((C + 3) / 4), [&](u64 item) {
        const QuadSite site(item, C);
        Quad noise = load_quad(differences + site.offset, site.count, wide);
        for (u32 o = 1; o <= most; ++o) {
            const Quad difference = load_quad(differences + o * size + site.offset, site.count, wide);
            const float weight = o == 1 ? x : x * x / 2.0f;
            for (int lane = 0; lane < 4; ++lane)
                noise.value[lane] = noise.value[lane] + difference.value[lane] * weight;
        }
        store_halves(settled, site, noise, size, halves, wide);
    });
}

}  // namespace himar
