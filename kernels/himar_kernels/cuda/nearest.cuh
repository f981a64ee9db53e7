// From a latent to codes, scale by scale: the nearest code of every cell, and what is left for finer scales
// (docs/hmar-model.md §3), as families/hmar/pyramid.py defines them.
#pragma once

#include "block.cuh"

namespace himar {

// A double and a code of each thread.
constexpr u32 kNearestWords = 3 * kMostThreads;

// codes (N): of each of N words (N, C) the code whose vector in embedding (V, C) is nearest, the lower of two equally
// near. In double. One block finds one code: each thread looks at some, and one compares what they found.
template <class Block>
HIMAR_FN void nearest_codes(Block& block, u32* shared, i64* codes, const float* words, const float* embedding, u32 N,
                            u32 V, u32 C) {
    u32* const found = shared + 2 * kMostThreads;
    const u32 threads = block.threads() < V ? block.threads() : V;
    for (u32 site = block.index(); site < N; site += block.count()) {
        const float* const word = words + static_cast<u64>(site) * C;
        // ‖e‖² - 2·w·e: smaller by ‖w‖² than the distance, which is the same for every code.
        const auto apart = [&](u32 code) {
            const float* const vector = embedding + static_cast<u64>(code) * C;
            double square = 0.0, product = 0.0;
            for (u32 channel = 0; channel < C; ++channel) {
                const double value = static_cast<double>(vector[channel]);
                square += value * value;
                product += value * static_cast<double>(word[channel]);
            }
            return square - 2.0 * product;
        };
        block.sync();  // what was found of the word before is compared
        block.for_each(threads, [&](u32 thread) {
            u32 nearest = thread;
            double least = apart(thread);
            for (u32 code = thread + threads; code < V; code += threads) {
                const double other = apart(code);
                if (other < least) {
                    least = other;
                    nearest = code;
                }
            }
            put_double(shared + 2 * thread, least);
            found[thread] = nearest;
        });
        block.sync();
        block.once([&] {
            u32 best = 0;
            for (u32 thread = 1; thread < threads; ++thread) {
                const double least = get_double(shared + 2 * best), other = get_double(shared + 2 * thread);
                if (other < least || (other == least && found[thread] < found[best])) best = thread;
            }
            codes[site] = found[best];
        });
    }
}

// rest -= part, of `count` values: what a latent leaves for finer scales.
template <class Block>
HIMAR_FN void subtract(Block& block, u32*, float* rest, const float* part, u32 count) {
    block.for_each_in_grid(count, [&](u64 item) { rest[item] -= part[item]; });
}

}  // namespace himar
