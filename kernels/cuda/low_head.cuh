// The MLP head's diffusion over the revealed positions: in phase low of the released models, in either phase of others.
#pragma once

#include "block.cuh"
#include "diffusion.cuh"

namespace himar {

// Starts the chain: initial noise into every half of x, and k = n-1.
//
// x (H·B·r, C), timestep (1), timesteps (n), images (B), revealed (B, r), noise (B, r, C) or null for the seed's.
template <class Block>
HIMAR_FN void start_low(Block& block, u32*, float* x, i64* timestep, StepState* state, const i64* timesteps,
                        const u32* images, const u32* revealed, const float* noise, u32 batch, u32 halves, u32 r,
                        u32 C) {
    const u64 rows = static_cast<u64>(batch) * r;
    const bool wide = rows_are_wide(C, x, noise);
    block.for_each_in_grid(rows * ((C + 3) / 4), [&](u64 item) {
        const QuadSite site(item, C);
        const Quad drawn = noise_at(noise, site, wide, *state, kInitialNoise, images[site.row / r], revealed[site.row]);
        store_halves(x, site, drawn, rows * C, halves, wide);
    });
    block.sync();
    block.once([&] {
        if (block.index() == 0) set_chain_index(state, timestep, timesteps, state->chain_length - 1);
    });
}

// One reverse step at state->k: guidance, mean, learned variance, noise. The last block then lowers k.
//
// x (H·B·r, C) becomes the next state in every half; prediction (H·B·r, 2C) holds ε and v; noise (B, r, C) of this k,
// or null for the seed's. At k = 0 no noise is added, the tokens are written into both halves of low_tokens (2B, S, C)
// at the revealed positions, and one that is not finite is a fault of the head. S positions and low_tokens are those of
// the phase.
template <class Block>
HIMAR_FN void mlp_step(Block& block, u32* shared, float* x, i64* timestep, float* low_tokens, StepState* state,
                       const i64* timesteps, const float* chain, const float* prediction, const u32* images,
                       const u32* revealed, const float* noise, u32* fault, u32 batch, u32 halves, u32 S, u32 r,
                       u32 C) {
    const u32 k = state->k;
    const ChainRow row = chain_row(chain, k);
    const float guidance = state->guidance, temperature = state->temperature;
    const u64 rows = static_cast<u64>(batch) * r;
    const bool wide = rows_are_wide(C, x, low_tokens, prediction, noise);
    block.for_each_in_grid(rows * ((C + 3) / 4), [&](u64 item) {
        const QuadSite site(item, C);
        const u32 image = site.row / r, position = revealed[site.row];
        const Quad epsilon = guided_quad(prediction, 2 * C, site, rows, halves, guidance, wide);
        Quad next = load_quad(x + site.offset, site.count, wide);
        for (int lane = 0; lane < 4; ++lane)
            next.value[lane] = posterior_mean(row, next.value[lane], epsilon.value[lane]);
        if (k > 0) {
            const u64 variance = static_cast<u64>(site.row) * 2 * C + C + 4 * site.quad;
            const Quad v = load_quad(prediction + variance, site.count, wide);
            const Quad drawn = noise_at(noise, site, wide, *state, k, images[image], position);
            for (int lane = 0; lane < 4; ++lane)
                next.value[lane] = with_noise(next.value[lane], deviation_of(learned_log_variance(row, v.value[lane])),
                                              drawn.value[lane], temperature);
        } else {
            const u64 token = (static_cast<u64>(image) * S + position) * C + 4 * site.quad;
            store_quad(low_tokens + token, next, site.count, wide);
            store_quad(low_tokens + static_cast<u64>(batch) * S * C + token, next, site.count, wide);
            if (!all_finite(next)) note_fault(fault, state->phase == kPhaseLow ? kMlpHead : kMlpHeadHigh, state->step);
        }
        store_halves(x, site, next, rows * C, halves, wide);
    });
    if (is_last_block(block, &state->tickets, shared))
        block.once([&] { set_chain_index(state, timestep, timesteps, k > 0 ? k - 1 : 0); });
}

}  // namespace himar
