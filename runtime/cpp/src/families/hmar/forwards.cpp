// One scale: words → trunk → tail → draws, masked steps, and what its codes add to the latent (docs/hmar-model.md §3-5).
#include <algorithm>
#include <string>
#include <utility>

#include "error.h"
#include "families/hmar/draws.h"
#include "families/hmar/faults.h"
#include "families/hmar/lane.h"

namespace himar::core::hmar {
namespace {

u32 word(std::int64_t value) { return static_cast<u32>(value); }

u32 fault_of(const Forward& forward) { return forward.step > 0 ? kMaskedFault : kNextScaleFault; }

}  // namespace

// Leaves the scale's codes, unless none are drawn, and the latent with what it adds.
void HmarLane::queue_scale(const std::vector<Forward>& forwards, const Sampling& sampling, const Chunk& chunk) {
    const Buffers& b = *buffers_;
    const std::size_t scale = forwards.front().scale;
    masked_ = redrawn_.empty() ? nullptr : b.edited + batch_ * model_.scales.start(scale);
    for (const Forward& forward : forwards) {
        queue_words(forward);
        if (sampling.all_scales)
            queue_all_scales(forward);
        else
            queue_network(forward);
        if (sampling.smooth) {
            queue_mix(forward, sampling, chunk);
            return queue_contribution(scale, b.places, smooth_->mixed, b.latent);
        }
        queue_draw(forward, sampling, chunk);
        if (!queue_remask(forward)) break;
    }
    queue_contribution(scale, codes_of(scale), constants_->embedding, b.latent);
}

// Choose the cells that the next step redraws, among those of this one; false where no image has any.
bool HmarLane::queue_remask(const Forward& forward) {
    const Buffers& b = *buffers_;
    const u32 T = word(model_.scales.cells(forward.scale));
    u8* const chosen = b.masked[masked_ == b.masked[0] ? 1 : 0];
    if (redrawn_.empty()) {
        if (forward.remasked == 0) return false;
        queue().launch(launches::least_confident(chosen, b.confidence, masked_, word(forward.remasked), word(batch_), T));
    } else {
        const std::size_t place = forward.index * static_cast<std::size_t>(batch_);
        const auto counts = redrawn_.begin() + static_cast<std::ptrdiff_t>(place);
        if (std::all_of(counts, counts + batch_, [](u32 count) { return count == 0; })) return false;
        queue().launch(launches::least_confident_of_each(chosen, b.confidence, masked_, b.redrawn + place, word(batch_), T));
    }
    masked_ = chosen;
    return true;
}

// The input words: the latent averaged down, in a masked step with the scale's own contribution at visible cells; 0 at scale
// 0.
void HmarLane::queue_words(const Forward& forward) {
    const Buffers& b = *buffers_;
    const std::int64_t H = model_.scales.side(), p = model_.scales.sides[forward.scale], Cv = model_.latent_channels;
    if (forward.scale == 0)
        return queue().clear(b.words, static_cast<std::size_t>(forward.halves * batch_ * p * p * Cv) * sizeof(float));
    const bool refines = forward.step > 0;
    if (refines) {
        queue_contribution(forward.scale, codes_of(forward.scale), constants_->embedding, nullptr);
        queue().launch(launches::show_masked(b.shown, masked_, word(batch_), word(forward.halves), word(p * p)));
    }
    queue().launch(launches::scale_words(b.words, b.latent, refines ? b.own : nullptr, refines ? masked_ : nullptr,
                                         constants_->down[forward.scale], word(batch_), word(forward.halves), word(p),
                                         word(H), word(Cv)));
}

// Trunk and tail on the scale's cells alone: logits.
void HmarLane::queue_network(const Forward& forward) {
    const Buffers& b = *buffers_;
    const Conditions& made = b.conditions;
    const bool refines = forward.step > 0;
    const std::int64_t R = forward.halves * batch_, T = model_.scales.cells(forward.scale), C = model_.width;
    std::vector<Place> trunk = {{"words", b.words, {R, T, model_.latent_channels}},
                                {"masked", refines ? b.shown : b.zeros, {R, T}},
                                {"cells", b.places + model_.scales.start(forward.scale), {T}},
                                {"start", forward.scale == 0 ? made.cond : b.zeros, {R, 1, C}}};
    if (made.trunk != nullptr) trunk.emplace_back("vectors", made.trunk, Shape{R, model_.base(), 6, C});
    trunk.emplace_back("x", b.x, Shape{R, T, C});
    run_engine(*networks_.find(kTrunk), trunk);
    std::vector<Place> tail = {{"x", b.x, {R, T, C}}, {"head", refines ? made.masked_head : made.tail_head, {R, 2, C}}};
    if (model_.tail > 0) tail.emplace_back("vectors", refines ? made.masked : made.tail, Shape{R, model_.tail, 6, C});
    tail.emplace_back("logits", b.logits, Shape{R, T, model_.vocab});
    run_engine(*networks_.find(refines ? kMaskedTail : kNextScaleTail), tail);
}

// The same with all coarser scales in view; this scale's keys and values join theirs.
void HmarLane::queue_all_scales(const Forward& forward) {
    const Buffers& b = *buffers_;
    const Conditions& made = b.conditions;
    const std::int64_t R = forward.halves * batch_, T = model_.scales.cells(forward.scale), C = model_.width;
    const std::int64_t P = model_.scales.start(forward.scale);
    const auto run = [&](VarStage& stage, std::vector<Place> places) {
        const PastBuffers& past = *stage.past;
        const Shape before{R, stage.blocks, P, C}, own{R, stage.blocks, T, C};
        places.emplace_back("keys", past.past[stage.turn][0], before);
        places.emplace_back("values", past.past[stage.turn][1], before);
        places.emplace_back("own_keys", past.own[0], own);
        places.emplace_back("own_values", past.own[1], own);
        run_engine(*stage.engine, places);
        queue_past(stage, forward);
    };
    run(var_trunk_, {{"words", b.words, {R, T, model_.latent_channels}},
                     {"cells", b.places + P, {T}},
                     {"start", forward.scale == 0 ? made.cond : b.zeros, {R, 1, C}},
                     {"vectors", made.trunk, {R, model_.base(), 6, C}},
                     {"x", b.x, {R, T, C}}});
    run(var_tail_, {{"x", b.x, {R, T, C}},
                    {"head", made.tail_head, {R, 2, C}},
                    {"vectors", made.tail, {R, model_.tail, 6, C}},
                    {"logits", b.logits, {R, T, model_.vocab}}});
}

// Every row and block has its cells together, so they move where there are more of them.
void HmarLane::queue_past(VarStage& stage, const Forward& forward) {
    if (forward.scale + 1 == model_.scales.count()) return;
    const auto cells = static_cast<std::size_t>(model_.scales.cells(forward.scale));
    const auto before = static_cast<std::size_t>(model_.scales.start(forward.scale));
    const auto width = static_cast<std::size_t>(model_.width), row = width * sizeof(float);
    const auto parts = static_cast<std::size_t>(forward.halves * batch_ * stage.blocks);
    for (int what = 0; what < 2; ++what) {
        const float* const old = stage.past->past[stage.turn][what];
        float* const joined = stage.past->past[!stage.turn][what];
        for (std::size_t part = 0; part < parts; ++part) {
            float* const to = joined + part * (before + cells) * width;
            queue().copy(to, old + part * before * width, before * row);
            queue().copy(to + before * width, stage.past->own[what] + part * cells * width, cells * row);
        }
    }
    stage.turn = !stage.turn;
}

void HmarLane::queue_draw(const Forward& forward, const Sampling& sampling, const Chunk& chunk) {
    const Buffers& b = *buffers_;
    const std::int64_t T = model_.scales.cells(forward.scale);
    const float* uniforms = nullptr;
    if (chunk.draws != nullptr) {
        const std::vector<float> given = given_uniforms(*chunk.draws, forward, images_, T, model_.vocab);
        queue().make_current();  // the draws are a user's, who may use another GPU
        queue().upload(b.uniforms, given.data(), given.size() * sizeof(float));
        uniforms = b.uniforms;
    }
    queue().launch(launches::draw_codes(codes_of(forward.scale), b.confidence, b.logits, uniforms, masked_, b.origins,
                                        b.fault, forward.guidance, sampling.top_p, word(sampling.top_k),
                                        word(static_cast<std::int64_t>(forward.scale)), word(forward.step),
                                        fault_of(forward), word(batch_), word(forward.halves), word(T),
                                        word(model_.vocab)));
}

void HmarLane::queue_mix(const Forward& forward, const Sampling& sampling, const Chunk& chunk) {
    const Buffers& b = *buffers_;
    const std::int64_t T = model_.scales.cells(forward.scale);
    const float* gumbel = nullptr;
    if (chunk.draws != nullptr) {
        const std::vector<float> given = given_gumbel(*chunk.draws, forward, images_, T, model_.vocab);
        queue().make_current();  // as in `queue_draw`
        queue().upload(smooth_->gumbel, given.data(), given.size() * sizeof(float));
        gumbel = smooth_->gumbel;
    }
    const double ratio = model_.scales.ratio(forward.scale), temperature = std::max(0.27 * (1 - 0.95 * ratio), 0.005);
    queue().launch(launches::mix_codes(smooth_->mixed, b.logits, gumbel, constants_->embedding, b.origins, b.fault,
                                       forward.guidance, sampling.top_p, 1 + ratio, temperature, word(sampling.top_k),
                                       word(static_cast<std::int64_t>(forward.scale)), fault_of(forward), word(batch_),
                                       word(forward.halves), word(T), word(model_.vocab),
                                       word(model_.latent_channels)));
}

// own = Φ(U(vectors of the codes)), and added to the latent where one is given. A smooth preview's vectors are its own: one
// for each cell, by the number of its place.
void HmarLane::queue_contribution(std::size_t scale, const i64* codes, const float* embedding, float* latent) {
    const Buffers& b = *buffers_;
    const std::int64_t H = model_.scales.side(), Cv = model_.latent_channels;
    queue().launch(launches::upsample_codes(b.grid, codes, embedding, constants_->up[scale], word(batch_),
                                            word(model_.scales.sides[scale]), word(H), word(Cv)));
    queue().launch(launches::add_contribution(b.own, latent, b.grid, constants_->weights, constants_->biases,
                                              model_.scales.convolution(scale), word(batch_), word(H), word(Cv)));
}

}  // namespace himar::core::hmar
