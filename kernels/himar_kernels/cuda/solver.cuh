// One step of a solver without noise, value by value (himar_kernels/solvers.py): DDIM and DPM-Solver++(2M) alike.
#pragma once

#include "diffusion.cuh"

namespace himar {

// One row of a solver's chain table (n, 8), where ChainRow stands for "ddpm"; the first four are the same.
struct SolverRow {
    float sqrt_alphas_cumprod;
    float sqrt_one_minus_alphas_cumprod;
    float x_scale;
    float noise_scale;
    float x_weight;
    float start_weight;
    float previous_weight;  // 0 where a step is of first order
    float unused;
};
static_assert(sizeof(SolverRow) == sizeof(ChainRow), "both kinds of chains lie in one table");

HIMAR_FN const SolverRow& solver_row(const float* chain, u32 k) {
    return reinterpret_cast<const SolverRow*>(chain)[k];
}

// The next state of a quad. `start` (rows, channels) holds x̂0 of the step before and takes that of this one; it is not
// read at the first step, when nothing has written it.
HIMAR_FN Quad solved_quad(const SolverRow& row, const Quad& x, const Quad& epsilon, float* start, const QuadSite& site,
                          bool wide) {
    Quad predicted, next;
    for (int lane = 0; lane < 4; ++lane) {
        predicted.value[lane] = start_of(row, x.value[lane], epsilon.value[lane]);
        next.value[lane] = row.start_weight * predicted.value[lane] + row.x_weight * x.value[lane];
    }
    if (row.previous_weight != 0.0f) {
        const Quad previous = load_quad(start + site.offset, site.count, wide);
        for (int lane = 0; lane < 4; ++lane)
            next.value[lane] = next.value[lane] + row.previous_weight * previous.value[lane];
    }
    store_quad(start + site.offset, predicted, site.count, wide);
    return next;
}

}  // namespace himar
