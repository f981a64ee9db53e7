// The DiT head's diffusion over all positions; known ones follow their tokens. In phase high of the released models, in
// either phase of others, where N positions and the tokens are those of the phase.
#pragma once

#include "block.cuh"
#include "diffusion.cuh"

namespace himar {

// Starts the chain: initial noise at masked positions, re-noised tokens at known ones, and k = n-1.
//
// x (H·B, N, C), initial (B, N, C) keeps the initial noise, timestep (1), timesteps (n), chain (n, 8),
// tokens (2B, N, C), ranks (B, N), images (B), noise (B, N, C) or null for the seed's.
template <class Block>
HIMAR_FN void start_high(Block& block, u32*, float* x, float* initial, i64* timestep, StepState* state,
                         const i64* timesteps, const float* chain, const float* tokens, const u32* ranks,
                         const u32* images, const float* noise, u32 batch, u32 halves, u32 N, u32 C) {
    const u32 masked = state->masked, first = state->chain_length - 1;
    const ChainRow row = chain_row(chain, first);
    const u64 rows = static_cast<u64>(batch) * N;
    const bool wide = rows_are_wide(C, x, initial, tokens, noise);
    block.for_each_in_grid(rows * ((C + 3) / 4), [&](u64 item) {
        const QuadSite site(item, C);
        const u32 position = site.row % N;
        Quad start = noise_at(noise, site, wide, *state, kInitialNoise, images[site.row / N], position);
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

// One reverse step at state->k: guidance, mean, fixed variance, noise. The last block then lowers k.
//
// x (H·B, N, C) becomes the input of the next engine run in every half: masked positions take the step, known ones are
// re-noised for k-1. prediction (H·B, N, C) is ε; noise (B, N, C) of this k, or null for the seed's. At k = 0 no noise
// is added; masked positions write their result into both halves of tokens (2B, N, C), and one that is not finite is a
// fault of the head; known positions keep their tokens and their x.
template <class Block>
HIMAR_FN void dit_step(Block& block, u32* shared, float* x, i64* timestep, float* tokens, StepState* state,
                       const i64* timesteps, const float* chain, const float* prediction, const float* initial,
                       const u32* ranks, const u32* images, const float* noise, u32* fault, u32 batch, u32 halves,
                       u32 N, u32 C) {
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
            const Quad token = load_quad(tokens + site.offset, site.count, wide);
            next = load_quad(initial + site.offset, site.count, wide);
            for (int lane = 0; lane < 4; ++lane)
                next.value[lane] = renoised(next_row, token.value[lane], next.value[lane]);
        } else {
            const Quad epsilon = guided_quad(prediction, C, site, rows, halves, guidance, wide);
            next = load_quad(x + site.offset, site.count, wide);
            for (int lane = 0; lane < 4; ++lane)
                next.value[lane] = posterior_mean(row, next.value[lane], epsilon.value[lane]);
            if (k > 0) {
                const u32 position = site.row % N;
                const Quad drawn = noise_at(noise, site, wide, *state, k, images[site.row / N], position);
                for (int lane = 0; lane < 4; ++lane)
                    next.value[lane] = with_noise(next.value[lane], deviation, drawn.value[lane], temperature);
            } else {
                store_halves(tokens, site, next, rows * C, 2, wide);
                if (!all_finite(next)) note_fault(fault, state->phase == kPhaseLow ? kDitHeadLow : kDitHead, state->step);
            }
        }
        store_halves(x, site, next, rows * C, halves, wide);
    });
    if (is_last_block(block, &state->tickets, shared))
        block.once([&] { set_chain_index(state, timestep, timesteps, k > 0 ? k - 1 : 0); });
}

}  // namespace himar
