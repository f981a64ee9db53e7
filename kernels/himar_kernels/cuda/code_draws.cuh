// From two rows of logits to a code: guidance, top-k, top-p, one categorical draw (docs/hmar-model.md §5.1-5.2).
//
// The decisions are those of himar_kernels/families/hmar/code_draws.py: what top-k keeps is decided on float logits,
// probabilities are doubles and are added up one after another in the order that is defined there.
#pragma once

#include "block.cuh"
#include "philox.cuh"
#include "state.cuh"

namespace himar {

// Most codes that a model may have, and weights that are added up at once.
constexpr u32 kMostCodes = 4096, kSummed = 512;
constexpr u32 kDrawWords = 2 * kMostCodes + 2 * kSummed + 2 * (kMostCodes / kSummed) + 1;

// Of kinds of draws, the uniform that picks a code.
constexpr u32 kUniformKind = 2;

// ImageDraws.uniforms of himar_kernels/families/hmar/draws.py.
HIMAR_FN float code_uniform(const ImageOrigin& origin, u32 scale, u32 step, u32 cell) {
    const u32 word = philox(cell << 16, scale << 16 | step, origin.index, kUniformKind << 8, origin.seed).word[0];
    return static_cast<float>(word >> 8) * (1.0f / 16777216.0f);
}

// exp(logit - largest) in double.
HIMAR_FN double code_weight(float logit, float largest) {
    const double apart = static_cast<double>(logit) - static_cast<double>(largest);
    return apart > -746.0 ? exp_double(apart) : 0.0;
}

// Sorts pairs (first, second) ascending; `count` is a power of two. Starts without, ends with a sync.
template <class Block>
HIMAR_FN void sort_pairs(Block& block, u32* first, u32* second, u32 count) {
    for (u32 size = 2; size <= count; size *= 2) {
        for (u32 apart = size / 2; apart > 0; apart /= 2) {
            block.sync();
            block.for_each(count / 2, [&](u32 pair) {
                const u32 low = 2 * pair - (pair & (apart - 1)), high = low + apart;
                const u32 a = first[low], b = first[high], c = second[low], d = second[high];
                const bool falls = a > b || (a == b && c > d);
                if (falls != ((low & size) == 0)) return;
                first[low] = b;
                first[high] = a;
                second[low] = d;
                second[high] = c;
            });
        }
    }
    block.sync();
}

// The first of `count` items at which the running sum of weight(i) exceeds share · the whole sum; `count` where none does.
// `whole` becomes the whole sum. `room` has kDrawWords - 2·kMostCodes words. One thread adds, in the order of items.
template <class Block, class Weight>
HIMAR_FN u32 first_beyond(Block& block, u32* room, u32 count, double share, double& whole, Weight weight) {
    u32* const totals = room + 2 * kSummed;
    u32* const found = totals + 2 * (kMostCodes / kSummed);
    const u32 runs = (count + kSummed - 1) / kSummed;
    const auto held = [&](u32 run) { return count - run * kSummed < kSummed ? count - run * kSummed : kSummed; };
    const auto before = [&](u32 run) { return run == 0 ? 0.0 : get_double(totals + 2 * (run - 1)); };
    for (u32 run = 0; run < runs; ++run) {
        block.sync();
        block.for_each(held(run), [&](u32 i) { put_double(room + 2 * i, weight(run * kSummed + i)); });
        block.sync();
        block.once([&] {
            double total = before(run);
            for (u32 i = 0; i < held(run); ++i) total += get_double(room + 2 * i);
            put_double(totals + 2 * run, total);
        });
    }
    block.sync();
    whole = before(runs);
    const double limit = share * whole;
    u32 run = 0;
    while (run < runs && !(before(run + 1) > limit)) ++run;
    if (run == runs) return count;
    block.for_each(held(run), [&](u32 i) { put_double(room + 2 * i, weight(run * kSummed + i)); });
    block.sync();
    block.once([&] {
        double total = before(run);
        u32 i = 0;
        while (i + 1 < held(run) && !((total += get_double(room + 2 * i)) > limit)) ++i;
        *found = run * kSummed + i;
    });
    block.sync();
    return *found;
}

// Which codes survive both filters: those from (word, code) on, in the order of logits and then of codes.
struct Survivors {
    float largest;  // logit
    u32 word, code;

    HIMAR_FN bool have(float logit, u32 of) const {
        const u32 other = sorting_word(logit);
        return other > word || (other == word && of >= code);
    }
};

// The survivors among V logits, logit(code). `shared` has kDrawWords words. A logit that is not finite is a fault of
// `component`, noted with the scale. Starts and ends with a sync.
template <class Block, class Logit>
HIMAR_FN Survivors surviving(Block& block, u32* shared, Logit logit, u32 top_k, double top_p, u32 V, u32* fault,
                             u32 component, u32 scale) {
    u32 *const words = shared, *const places = shared + kMostCodes, *const room = shared + 2 * kMostCodes;
    u32 padded = 1;
    while (padded < V) padded *= 2;
    block.sync();  // whoever used the shared words before reads them no more
    block.for_each(padded, [&](u32 code) {
        const float value = code < V ? logit(code) : 0.0f;
        if (!is_finite(value)) note_fault(fault, component, scale);
        words[code] = code < V ? sorting_word(value) : 0xFFFFFFFFu;
        places[code] = code;
    });
    sort_pairs(block, words, places, padded);
    Survivors found = {value_of_sorting_word(words[V - 1]), top_k > 0 ? words[V - top_k] : 0, 0};
    if (top_p < 1.0) {
        double whole;
        const u32 place = first_beyond(block, room, V, 1.0 - top_p, whole, [&](u32 i) {
            return words[i] >= found.word ? code_weight(value_of_sorting_word(words[i]), found.largest) : 0.0;
        });
        const u32 stays = place < V ? place : V - 1;
        found.word = words[stays];
        found.code = places[stays];
    }
    block.sync();
    return found;
}

// (1+t)·cond - t·uncond of one cell, or cond alone where there is no uncond.
struct GuidedLogits {
    const float *cond, *uncond;
    float with, without;

    HIMAR_FN GuidedLogits(const float* logits, u32 site, double weight, u32 sites, u32 halves, u32 V)
        : cond(logits + static_cast<u64>(site) * V),
          uncond(halves == 2 ? cond + static_cast<u64>(sites) * V : nullptr),
          with(static_cast<float>(1.0 + weight)),
          without(static_cast<float>(weight)) {}

    HIMAR_FN float operator()(u32 code) const {
        return uncond == nullptr ? cond[code] : with * cond[code] - without * uncond[code];
    }
};

// codes (B, T) and their probabilities among the survivors, confidence (B, T), of logits (H·B, T, V), conditional rows
// first; V is at most kMostCodes. One block draws one cell.
//
// weight is t of (1+t)·cond - t·uncond; with one half it is not used. uniforms (B, T) are drawn, from
// origins (B), where they are absent. masked (B, T): cells that are not masked keep what stands there; where absent all
// cells are drawn. A logit that is not finite is a fault of `component`, noted with the scale.
template <class Block>
HIMAR_FN void draw_codes(Block& block, u32* shared, i64* codes, float* confidence, const float* logits,
                         const float* uniforms, const u8* masked, const ImageOrigin* origins, u32* fault,
                         double weight, double top_p, u32 top_k, u32 scale, u32 step, u32 component, u32 batch,
                         u32 halves, u32 T, u32 V) {
    for (u32 site = block.index(); site < batch * T; site += block.count()) {
        if (masked != nullptr && masked[site] == 0) continue;
        const GuidedLogits logit(logits, site, weight, batch * T, halves, V);
        const Survivors survivors = surviving(block, shared, logit, top_k, top_p, V, fault, component, scale);
        const float uniform =
            uniforms != nullptr ? uniforms[site] : code_uniform(origins[site / T], scale, step, site % T);
        double whole;
        const u32 drawn =
            first_beyond(block, shared + 2 * kMostCodes, V, static_cast<double>(uniform), whole, [&](u32 code) {
                return survivors.have(logit(code), code) ? code_weight(logit(code), survivors.largest) : 0.0;
            });
        block.sync();
        block.once([&] {
            u32 code = drawn;
            if (code == V)
                while (--code > 0 && !survivors.have(logit(code), code)) {}
            codes[site] = code;
            confidence[site] = static_cast<float>(code_weight(logit(code), survivors.largest) / whole);
        });
    }
}

}  // namespace himar
