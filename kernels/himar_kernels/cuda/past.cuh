// Keys and values of the scales so far, for a network that attends to all of them (docs/hmar-model.md §4, VAR).
#pragma once

#include "block.cuh"

namespace himar {

// joined (N, P + T, C): of each of N sequences the P rows of past (N, P, C), then the T rows of own (N, T, C). N counts
// blocks within rows. joined overlaps neither of the others. One thread copies four neighbouring values.
template <class Block>
HIMAR_FN void join_past(Block& block, u32*, float* joined, const float* past, const float* own, u32 N, u32 P, u32 T,
                        u32 C) {
    const bool wide = rows_are_wide(C, joined, past, own);
    const u32 quads = (C + 3) / 4, cells = P + T;
    block.for_each_in_grid(static_cast<u64>(N) * cells * quads, [&](u64 item) {
        const u32 at = static_cast<u32>(item), first = at % quads * 4, row = at / quads;
        const u32 sequence = row / cells, cell = row % cells;
        const float* const from = cell < P ? past + (static_cast<u64>(sequence) * P + cell) * C
                                           : own + (static_cast<u64>(sequence) * T + cell - P) * C;
        const Quad four = load_quad(from + first, C - first, wide);
        store_quad(joined + static_cast<u64>(row) * C + first, four, C - first, wide);
    });
}

}  // namespace himar
