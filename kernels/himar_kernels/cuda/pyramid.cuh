// From codes to the latent and to a scale's input words (docs/hmar-model.md §3), as families/hmar/pyramid.py defines them.
//
// One thread computes one value, in float and always in the same order: a result depends on neither grid nor batch.
#pragma once

#include "block.cuh"

namespace himar {

// Row y, column x of M·grid·Mᵀ, M (…, p): sums over rows i first, then over columns j. Most of M is 0 and is left out.
template <class Grid>
HIMAR_FN float mapped_value(const float* matrix, u32 p, u32 y, u32 x, Grid grid) {
    const float *const rows = matrix + y * p, *const columns = matrix + x * p;
    float total = 0.0f;
    for (u32 j = 0; j < p; ++j) {
        if (columns[j] == 0.0f) continue;
        float column = 0.0f;
        for (u32 i = 0; i < p; ++i)
            if (rows[i] != 0.0f) column += rows[i] * grid(i, j);
        total += column * columns[j];
    }
    return total;
}

// grid (B, C, H, H) = U(E[codes]) of codes (B, p²), embedding (V, C), up (H, p).
template <class Block>
HIMAR_FN void upsample_codes(Block& block, u32*, float* grid, const i64* codes, const float* embedding, const float* up,
                             u32 batch, u32 p, u32 H, u32 C) {
    block.for_each_in_grid(static_cast<u64>(batch) * C * H * H, [&](u64 item) {
        const u32 at = static_cast<u32>(item), x = at % H, y = at / H % H, channel = at / H / H % C;
        const i64* const mine = codes + static_cast<u64>(at / H / H / C) * p * p;
        grid[at] = mapped_value(up, p, y, x,
                                [&](u32 i, u32 j) { return embedding[static_cast<u64>(mine[i * p + j]) * C + channel]; });
    });
}

// own (B, C, H, H) = ½·grid + ½·conv_k(grid), what a scale adds to the latent, and latent (B, C, H, H) with it added;
// without latent, own alone. weights (4, C, C, 3, 3), biases (4, C). Sums over the taps, in each over the channels.
template <class Block>
HIMAR_FN void add_contribution(Block& block, u32*, float* own, float* latent, const float* grid, const float* weights,
                               const float* biases, u32 k, u32 batch, u32 H, u32 C) {
    block.for_each_in_grid(static_cast<u64>(batch) * C * H * H, [&](u64 item) {
        const u32 at = static_cast<u32>(item), x = at % H, y = at / H % H, out = at / H / H % C;
        const float* const image = grid + static_cast<u64>(at / H / H / C) * C * H * H;
        const float* const mine = weights + static_cast<u64>(k * C + out) * C * 9;
        float total = 0.0f;
        for (u32 tap = 0; tap < 9; ++tap) {
            const u32 row = y + tap / 3 - 1, column = x + tap % 3 - 1;  // beyond the border they wrap to large numbers
            if (row >= H || column >= H) continue;
            float sum = 0.0f;
            for (u32 channel = 0; channel < C; ++channel)
                sum += mine[channel * 9 + tap] * image[(static_cast<u64>(channel) * H + row) * H + column];
            total += sum;
        }
        const float value = 0.5f * (grid[at] + total + biases[k * C + out]);
        own[at] = value;
        if (latent != nullptr) latent[at] += value;
    });
}

// words (H·B, p², C), all halves alike: A(latent), and with `own`, A(latent) + A(own) at cells that are not masked.
// latent and own (B, C, side, side), masked (B, p²), down (p, side).
template <class Block>
HIMAR_FN void scale_words(Block& block, u32*, float* words, const float* latent, const float* own, const u8* masked,
                          const float* down, u32 batch, u32 halves, u32 p, u32 side, u32 C) {
    const u64 half = static_cast<u64>(batch) * p * p * C;
    block.for_each_in_grid(half, [&](u64 item) {
        const u32 at = static_cast<u32>(item), channel = at % C, site = at / C;
        const u32 x = site % p, y = site / p % p;
        const u64 map = (static_cast<u64>(site / p / p) * C + channel) * side * side;
        float value = mapped_value(down, side, y, x, [&](u32 i, u32 j) { return latent[map + i * side + j]; });
        if (own != nullptr && masked[site] == 0)
            value += mapped_value(down, side, y, x, [&](u32 i, u32 j) { return own[map + i * side + j]; });
        for (u32 h = 0; h < halves; ++h) words[h * half + item] = value;
    });
}

}  // namespace himar
