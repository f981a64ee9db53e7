// The gather indices of the transformers and the positions that a step reveals, from ranks.
#pragma once

#include "block.cuh"
#include "state.cuh"

namespace himar {

constexpr u32 kScanWords = 2 * kMostThreads;

// What himar_kernels.index_lists and revealed_positions compute; one block per row, rows [conditional; unconditional].
//
// visible (H·B, K+V), sources (H·B, K+L), revealed (B, r). P = always + n positions are embedded: the first `always`
// are known in every step, position always + p is known once ranks[p] ≥ masked; V = always + n - masked.
// Each thread owns a run of neighbouring positions: it counts them, the counts are summed up over the block, and it
// writes its positions from its sum on, ascending.
template <class Block>
HIMAR_FN void index_lists(Block& block, u32* shared, i64* visible, i64* sources, u32* revealed, const u32* ranks,
                          const StepState* state, u32 batch, u32 halves, u32 context, u32 always, u32 n,
                          u32 positions) {
    const u32 masked = state->masked, reveals = state->revealed, threads = block.threads();
    const u32 embedded = always + n, rows = halves * batch;
    const u32 encoded = context + embedded - masked;  // K+V
    const u32 run = (n + threads - 1) / threads;
    for (u32 row = block.index(); row < rows; row += block.count()) {
        const u32 b = row % batch;
        const u32* const rank = ranks + static_cast<u64>(b) * n;
        i64* const sees = visible + static_cast<u64>(row) * encoded;
        i64* const source = sources + static_cast<u64>(row) * (context + positions);
        const i64 first_input = static_cast<i64>(row) * (context + embedded);
        const i64 first_encoded = static_cast<i64>(row) * encoded;
        const i64 first_mask_token = static_cast<i64>(rows) * encoded;

        block.sync();  // the row before reads its sums no more
        block.for_each(threads, [&](u32 t) {
            u32 known = 0;
            for (u32 p = t * run; p < (t + 1) * run && p < n; ++p) known += rank[p] >= masked;
            shared[t] = known;
        });
        const u32* sums = inclusive_sums(block, shared);
        block.for_each(threads, [&](u32 t) {
            u32 slot = context + always + (t == 0 ? 0 : sums[t - 1]);
            for (u32 p = t * run; p < (t + 1) * run && p < n; ++p) {
                const u32 place = context + always + p;
                if (rank[p] >= masked) {
                    sees[slot] = first_input + place;
                    source[place] = first_encoded + slot++;
                } else {
                    source[place] = first_mask_token + always + p;
                }
            }
        });
        block.sync();
        block.for_each(context + always, [&](u32 i) {
            sees[i] = first_input + i;
            source[i] = first_encoded + i;
        });
        block.sync();
        block.for_each(positions - embedded,
                       [&](u32 i) { source[context + embedded + i] = first_mask_token + embedded + i; });
        if (row >= batch) continue;  // both halves reveal the same positions

        block.sync();
        block.for_each(threads, [&](u32 t) {
            u32 count = 0;
            for (u32 p = t * run; p < (t + 1) * run && p < n; ++p)
                count += rank[p] < masked && rank[p] + reveals >= masked;
            shared[t] = count;
        });
        sums = inclusive_sums(block, shared);
        u32* const reveal = revealed + static_cast<u64>(b) * reveals;
        block.for_each(threads, [&](u32 t) {
            u32 slot = t == 0 ? 0 : sums[t - 1];
            for (u32 p = t * run; p < (t + 1) * run && p < n; ++p)
                if (rank[p] < masked && rank[p] + reveals >= masked) reveal[slot++] = p;
        });
    }
}

}  // namespace himar
