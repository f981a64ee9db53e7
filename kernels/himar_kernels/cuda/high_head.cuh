// The DiT head's diffusion over all positions; known ones follow their tokens. In phase high of the released models, in
// either phase of others, where N positions and the tokens are those of the phase.
#pragma once

#include "block.cuh"
#include "diffusion.cuh"
#include "solver.cuh"

namespace himar {

// Starts the chain: initial noise at masked positions, re-noised tokens at known ones, and k = n-1.
//
// x (H·B, N, C), initial (B, N, C) keeps the initial noise, timestep (1), timesteps (n), chain (n, 8),
// tokens (2B, N, C), ranks (B, N), origins (B), noise (B, N, C) or null to draw it.
template <class Block>
HIMAR_FN void start_high(Block& block, u32*, float* x, float* initial, i64* timestep, StepState* state,
                         const i64* timesteps, const float* chain, const float* tokens, const u32* ranks,
                         const ImageOrigin* origins, const float* noise, u32 batch, u32 halves, u32 N, u32 C) {
    const u32 masked = state->masked, first = state->chain_length - 1;
    const ChainRow row = chain_row(chain, first);
    const u64 rows = static_cast<u64>(batch) * N;
    const bool wide = rows_are_wide(C, x, initial, tokens, noise);
    block.for_each_in_grid(rows * ((C + 3) / 4), [&](u64 item) {
        const QuadSite site(item, C);
        const u32 position = site.row % N;
        Quad start = noise_at(noise, site, wide, *state, kInitialNoise, origins[site.row / N], position);
        store_quad(initial + site.offset, start, site.count, wide);
        if (ranks[site.row] >= masked) {
            const Quad token = load_quad(tokens + site.offset, site.count, wide);
            for (int lane = 0; lane < 4; ++lane)
                start.value[lane] = renoised(row, token.value[lane], start.value[lane]);
        }
        store_halves(x, site, start, rows * C, halves, wide);
    });
    block.sync();
    block.once([&] {
        if (block.index() == 0) set_chain_index(state, timestep, timesteps, first);
    });
}

// A known position's state for the engine's next run: its token as noisy as the chain is then.
HIMAR_FN Quad known_quad(const ChainRow& row, const float* tokens, const float* initial, const QuadSite& site,
                         bool wide) {
    const Quad token = load_quad(tokens + site.offset, site.count, wide);
    Quad known = load_quad(initial + site.offset, site.count, wide);
    for (int lane = 0; lane < 4; ++lane) known.value[lane] = renoised(row, token.value[lane], known.value[lane]);
    return known;
}

// The end of a chain at a masked position: its result goes into both halves of tokens, and is a fault of the head unless
// it is finite.
HIMAR_FN void keep_result(float* tokens, const Quad& token, const QuadSite& site, const StepState& state, u32* fault,
                          u64 half_size, bool wide) {
    store_halves(tokens, site, token, half_size, 2, wide);
    if (!all_finite(token)) note_fault(fault, state.phase == kPhaseLow ? kDitHeadLow : kDitHead, state.step);
}

// One reverse step at state->k: guidance, mean, fixed variance, noise. The last block then lowers k.
//
// x (H·B, N, C) becomes the input of the next engine run in every half: masked positions take the step, known ones are
// re-noised for k-1. prediction (H·B, N, C) is ε; noise (B, N, C) of this k, or null to draw it. At k = 0 no noise
// is added; masked positions write their result into both halves of tokens (2B, N, C), and one that is not finite is a
// fault of the head; known positions keep their tokens and their x.
template <class Block>
HIMAR_FN void dit_step(Block& block, u32* shared, float* x, i64* timestep, float* tokens, StepState* state,
                       const i64* timesteps, const float* chain, const float* prediction, const float* initial,
                       const u32* ranks, const ImageOrigin* origins, const float* noise, u32* fault, u32 batch,
                       u32 halves, u32 N, u32 C) {
    const u32 k = state->k, masked = state->masked;
    const ChainRow row = chain_row(chain, k), next_row = chain_row(chain, k > 0 ? k - 1 : 0);
    const float guidance = state->guidance, temperature = state->temperature, deviation = deviation_of(row.log_beta);
    const u64 rows = static_cast<u64>(batch) * N;
    const bool wide = rows_are_wide(C, x, tokens, prediction, initial, noise);
    block.for_each_in_grid(rows * ((C + 3) / 4), [&](u64 item) {
        const QuadSite site(item, C);
        Quad next;
        if (ranks[site.row] >= masked) {
            if (k == 0) return;
            next = known_quad(next_row, tokens, initial, site, wide);
        } else {
            const Quad epsilon = guided_quad(prediction, C, site, rows, halves, guidance, wide);
            next = load_quad(x + site.offset, site.count, wide);
            for (int lane = 0; lane < 4; ++lane)
                next.value[lane] = posterior_mean(row, next.value[lane], epsilon.value[lane]);
            if (k > 0) {
                const u32 position = site.row % N;
                const Quad drawn = noise_at(noise, site, wide, *state, k, origins[site.row / N], position);
                for (int lane = 0; lane < 4; ++lane)
                    next.value[lane] = with_noise(next.value[lane], deviation, drawn.value[lane], temperature);
            } else {
                keep_result(tokens, next, site, *state, fault, rows * C, wide);
            }
        }
        store_halves(x, site, next, rows * C, halves, wide);
    });
    if (is_last_block(block, &state->tickets, shared))
        block.once([&] { set_chain_index(state, timestep, timesteps, k > 0 ? k - 1 : 0); });
}

// One step at state->k of a solver without noise: guidance, x̂0, and the next state from it and the one before. The last
// block then lowers k.
//
// x (H·B, N, C), prediction, initial, tokens, and what happens at k = 0: as for dit_step. start (B, N, C) holds x̂0
// between the steps. chain (n, 8) has the rows of a solver.
template <class Block>
HIMAR_FN void dit_solve(Block& block, u32* shared, float* x, float* start, i64* timestep, float* tokens,
                        StepState* state, const i64* timesteps, const float* chain, const float* prediction,
                        const float* initial, const u32* ranks, u32* fault, u32 batch, u32 halves, u32 N, u32 C) {
    const u32 k = state->k, masked = state->masked;
    const SolverRow row = solver_row(chain, k);
    const ChainRow next_row = chain_row(chain, k > 0 ? k - 1 : 0);  // of which both kinds have what re-noising needs
    const float guidance = state->guidance;
    const u64 rows = static_cast<u64>(batch) * N;
    const bool wide = rows_are_wide(C, x, start, tokens, prediction, initial);
    block.for_each_in_grid(rows * ((C + 3) / 4), [&](u64 item) {
        const QuadSite site(item, C);
        Quad next;
        if (ranks[site.row] >= masked) {
            if (k == 0) return;
            next = known_quad(next_row, tokens, initial, site, wide);
        } else {
            const Quad epsilon = guided_quad(prediction, C, site, rows, halves, guidance, wide);
            next = solved_quad(row, load_quad(x + site.offset, site.count, wide), epsilon, start, site, wide);
            if (k == 0) keep_result(tokens, next, site, *state, fault, rows * C, wide);
        }
        store_halves(x, site, next, rows * C, halves, wide);
    });
    if (is_last_block(block, &state->tickets, shared))
        block.once([&] { set_chain_index(state, timestep, timesteps, k > 0 ? k - 1 : 0); });
}

}  // namespace himar
