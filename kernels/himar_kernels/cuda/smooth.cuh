// Vectors of a preview that mixes codes instead of drawing one (docs/hmar-model.md §5.3).
#pragma once

#include "code_draws.cuh"

namespace himar {

// Of kinds of draws, the Gumbel noise of a preview.
constexpr u32 kGumbelKind = 3;

// In place of the value of a code that does not survive.
constexpr double kRemoved = -1e308;

// ImageDraws.gumbel of himar_kernels/families/hmar/draws.py.
HIMAR_FN float code_gumbel(const ImageOrigin& origin, u32 scale, u32 cell, u32 code) {
    const Words random = philox(cell << 16 | code >> 2, scale << 16, origin.index, kGumbelKind << 8, origin.seed);
    const u32 word = random.word[code & 3];
    return static_cast<float>(-log_double(-log_double(((word >> 8) + 0.5) * (1.0 / 16777216.0))));
}

// words (B·T, C) = softmax((lift·logit + noise)/temperature)·E over the codes that survive, embedding (V, C); logits,
// weight, origins and fault as in draw_codes. gumbel (B, T, V) is drawn where it is absent. One block
// mixes one cell; previews are rare, so one thread adds.
template <class Block>
HIMAR_FN void mix_codes(Block& block, u32* shared, float* words, const float* logits, const float* gumbel,
                        const float* embedding, const ImageOrigin* origins, u32* fault, double weight, double top_p,
                        double lift, double temperature, u32 top_k, u32 scale, u32 component, u32 batch, u32 halves,
                        u32 T, u32 V, u32 C) {
    u32 *const values = shared, *const found = shared + 2 * kMostCodes;  // of each code; the largest, and then the sum
    for (u32 site = block.index(); site < batch * T; site += block.count()) {
        const GuidedLogits logit(logits, site, weight, batch * T, halves, V);
        const Survivors survivors = surviving(block, shared, logit, top_k, top_p, V, fault, component, scale);
        block.for_each(V, [&](u32 code) {
            const float noise = gumbel != nullptr
                                    ? gumbel[static_cast<u64>(site) * V + code]
                                    : code_gumbel(origins[site / T], scale, site % T, code);
            const float mine = logit(code);
            const bool stays = survivors.have(mine, code);
            put_double(values + 2 * code, stays ? (lift * mine + noise) / temperature : kRemoved);
        });
        block.sync();
        block.once([&] {
            double largest = kRemoved;
            for (u32 code = 0; code < V; ++code) {
                const double value = get_double(values + 2 * code);
                if (value > largest) largest = value;
            }
            put_double(found, largest);
        });
        block.sync();
        block.for_each(V, [&](u32 code) {
            const double apart = get_double(values + 2 * code) - get_double(found);
            put_double(values + 2 * code, apart > -746.0 ? exp_double(apart) : 0.0);
        });
        block.sync();
        block.once([&] {
            double total = 0.0;
            for (u32 code = 0; code < V; ++code) total += get_double(values + 2 * code);
            put_double(found, total);
        });
        block.sync();
        block.for_each(V, [&](u32 code) {
            const float share = static_cast<float>(get_double(values + 2 * code) / get_double(found));
            put_double(values + 2 * code, static_cast<double>(share));
        });
        block.sync();
        block.for_each(C, [&](u32 channel) {
            double mixed = 0.0;
            for (u32 code = 0; code < V; ++code)
                mixed += get_double(values + 2 * code) * embedding[static_cast<u64>(code) * C + channel];
            words[static_cast<u64>(site) * C + channel] = static_cast<float>(mixed);
        });
    }
}

}  // namespace himar
