// Which cells a masked step redraws: the least confident ones (docs/hmar-model.md §5).
#pragma once

#include "block.cuh"

namespace himar {

// chosen (B, T), 1 at each image's count(image) least confident cells, of equal ones the lower, among the cells of `among`
// (B, T), or all where it is absent. An image with fewer gets all of them. One thread places one cell by counting those
// that come before it, which needs no exchange between threads; masked scales are small.
template <class Block, class Count>
HIMAR_FN void choose_cells(Block& block, u8* chosen, const float* confidence, const u8* among, Count count, u32 batch,
                           u32 T) {
    block.for_each_in_grid(static_cast<u64>(batch) * T, [&](u64 item) {
        const u32 site = static_cast<u32>(item), cell = site % T, first = site - cell;
        if (among != nullptr && among[site] == 0) {
            chosen[site] = 0;
            return;
        }
        const u32 mine = sorting_word(confidence[site]);
        u32 before = 0;
        for (u32 other = 0; other < T; ++other) {
            if (among != nullptr && among[first + other] == 0) continue;
            const u32 word = sorting_word(confidence[first + other]);
            before += word < mine || (word == mine && other < cell);
        }
        chosen[site] = before < count(site / T);
    });
}

// The same count for every image.
template <class Block>
HIMAR_FN void least_confident(Block& block, u32*, u8* chosen, const float* confidence, const u8* among, u32 count,
                              u32 batch, u32 T) {
    choose_cells(block, chosen, confidence, among, [&](u32) { return count; }, batch, T);
}

// An image's own count, of counts (B): an edit redraws a part of each image.
template <class Block>
HIMAR_FN void least_confident_of_each(Block& block, u32*, u8* chosen, const float* confidence, const u8* among,
                                      const u32* counts, u32 batch, u32 T) {
    choose_cells(block, chosen, confidence, among, [&](u32 image) { return counts[image]; }, batch, T);
}

// shown (H·B, T), all halves alike: 1 at the cells that are masked (B, T), else 0, as the networks take them.
template <class Block>
HIMAR_FN void show_masked(Block& block, u32*, float* shown, const u8* masked, u32 batch, u32 halves, u32 T) {
    const u64 half = static_cast<u64>(batch) * T;
    block.for_each_in_grid(half, [&](u64 site) {
        const float value = masked[site] != 0 ? 1.0f : 0.0f;
        for (u32 h = 0; h < halves; ++h) shown[h * half + site] = value;
    });
}

}  // namespace himar
