// Vectors of a preview that mixes codes instead of drawing one (docs/hmar-model.md §5.3).
#pragma once

#include "code_draws.cuh"

namespace himar {

// Of kinds of draws, the Gumbel noise of a preview.
constexpr u32 kGumbelKind = 3;

// PhiloxDraws.gumbel of himar_kernels/families/hmar/draws.py.
HIMAR_FN float code_gumbel(u64 seed, u32 scale, u32 image, u32 cell, u32 code) {
    const u32 word = philox(cell << 16 | code >> 2, scale << 16, image, kGumbelKind << 8, seed).word[code & 3];
    return static_cast<float>(-log_double(-log_double(((word >> 8) + 0.5) * (1.0 / 16777216.0))));
}

// words (B·T, C) = softmax(((1+r)·logit + noise)/temperature)·E over the codes that survive, embedding (V, C); logits,
// weight, seed, images and fault as in draw_codes. gumbel (B, T, V) is drawn from the seed where it is absent. ratio is
// r = s/(S-1). One block mixes one cell; previews are rare, so one thread adds.
template <class Block>
HIMAR_FN void mix_codes(Block& block, u32* shared, float* words, const float* logits, const float* gumbel,
                        const float* embedding, const u64* seed, const u32* images, u32* fault, double weight,
                        double top_p, double ratio, u32 top_k, u32 scale, u32 component, u32 batch, u32 halves, u32 T,
                        u32 V, u32 C) {
    const double cooled = 0.27 * (1.0 - 0.95 * ratio), temperature = cooled > 0.005 ? cooled : 0.005;
    u32* const sums = shared + 2 * kMostCodes;  // the largest, and the sum of all
    for (u32 site = block.index(); site < batch * T; site += block.count()) {
        const GuidedLogits logit(logits, site, weight, batch * T, halves, V);
        const Survivors survivors = surviving(block, shared, logit, top_k, top_p, V, fault, component, scale);
        const u32 image = images[site / T];
        const auto kept = [&](u32 code) { return survivors.have(logit(code), code); };
        block.for_each(V, [&](u32 code) {
            const float noise = gumbel != nullptr ? gumbel[static_cast<u64>(site) * V + code]
                                                  : code_gumbel(*seed, scale, image, site % T, code);
            put_double(shared + 2 * code, ((1.0 + ratio) * logit(code) + noise) / temperature);
        });
        block.sync();
        block.once([&] {
            double largest = -1e308;
            for (u32 code = 0; code < V; ++code) {
                const double value = get_double(shared + 2 * code);
                if (kept(code) && value > largest) largest = value;
            }
            put_double(sums, largest);
        });
        block.sync();
        block.for_each(V, [&](u32 code) {
            const double apart = get_double(shared + 2 * code) - get_double(sums);
            put_double(shared + 2 * code, kept(code) && apart > -746.0 ? exp_double(apart) : 0.0);
        });
        block.sync();
        block.once([&] {
            double total = 0.0;
            for (u32 code = 0; code < V; ++code) total += get_double(shared + 2 * code);
            put_double(sums + 2, total);
        });
        block.sync();
        block.for_each(C, [&](u32 channel) {
            double mixed = 0.0;
            for (u32 code = 0; code < V; ++code)
                mixed += static_cast<double>(static_cast<float>(get_double(shared + 2 * code) / get_double(sums + 2))) *
                         embedding[static_cast<u64>(code) * C + channel];
            words[static_cast<u64>(site) * C + channel] = static_cast<float>(mixed);
        });
    }
}

}  // namespace himar
