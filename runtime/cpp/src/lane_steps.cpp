// The autoregressive steps of both phases: indices → transformer → head and reverse steps → tokens.
#include "lane.h"

namespace himar::core {
namespace {

constexpr u32 kTransformerHigh = 2;  // as a fault word counts components

u32 word(std::int64_t value) { return static_cast<u32>(value); }

}  // namespace

// Sample the tokens of the step's revealed low positions and capture their pivots.
void Lane::low_step(const Step& step, const Chain& chain) {
    Buffers& b = *buffers_;
    const std::int64_t B = batch_, H = step.halves(), r = step.revealed, S = model_.low_positions(), K = model_.buffer;
    const std::int64_t C = model_.channels, D = model_.width, W = widths_.mlp, L = S + model_.high_positions();
    kernels::index_lists(b.visible, b.sources, b.revealed, b.low_ranks, b.state, word(B), word(H), word(K), 0, word(S),
                         word(L));
    run_engine(*networks_.transformer_low, {{"class_row", b.class_row, {H * B}},
                                            {"low_tokens", b.low_tokens, {H * B, S, C}},
                                            {"visible", b.visible, {H * B, K + S - step.masked}},
                                            {"sources", b.sources, {H * B, K + L}},
                                            {"pivots", b.engine_pivots, {H * B, S, D}},
                                            {"condition", b.low_condition, {H * B, S, W}}});
    kernels::reveal_low(b.head_condition, b.pivots, b.low_condition, b.engine_pivots, b.revealed, b.state, b.fault,
                        word(B), word(H), word(S), word(r), word(W), word(D));
    kernels::start_low(b.mlp_x, b.timestep, b.state, chain.timesteps.data(), b.images, b.revealed,
                       noise(step, GivenDraws::kInitialNoise, b.revealed, r), word(B), word(H), word(r), word(C));
    for (std::int64_t k = chain.length() - 1; k >= 0; --k) {
        run_engine(*networks_.mlp_head, {{"x", b.mlp_x, {H * B * r, C}},
                                         {"timestep", b.timestep, {1}},
                                         {"condition", b.head_condition, {H * B * r, W}},
                                         {"prediction", b.mlp_prediction, {H * B * r, 2 * C}}});
        if (chain.adds_noise)
            kernels::mlp_step(b.mlp_x, b.timestep, b.low_tokens, b.state, chain.timesteps.data(), chain.table.data(),
                              b.mlp_prediction, b.images, b.revealed, noise(step, k, b.revealed, r), b.fault, word(B),
                              word(H), word(S), word(r), word(C));
        else
            kernels::mlp_solve(b.mlp_x, b.start, b.timestep, b.low_tokens, b.state, chain.timesteps.data(),
                               chain.table.data(), b.mlp_prediction, b.revealed, b.fault, word(B), word(H), word(S),
                               word(r), word(C));
    }
}

// Denoise all high positions under the pivots; known ones follow their tokens.
void Lane::high_step(const Step& step, const Chain& chain) {
    Buffers& b = *buffers_;
    const std::int64_t B = batch_, H = step.halves(), S = model_.low_positions(), N = model_.high_positions();
    const std::int64_t C = model_.channels, D = model_.width, W = widths_.dit, K = model_.buffer;
    kernels::index_lists(b.visible, b.sources, b.revealed, b.high_ranks, b.state, word(B), word(H), word(K), word(S),
                         word(N), word(S + N));
    run_engine(*networks_.transformer_high, {{"class_row", b.class_row, {H * B}},
                                             {"pivots", b.pivots, {H * B, S, D}},
                                             {"tokens", b.tokens, {H * B, N, C}},
                                             {"visible", b.visible, {H * B, K + S + N - step.masked}},
                                             {"sources", b.sources, {H * B, K + S + N}},
                                             {"condition", b.high_condition, {H * B, N, W}}});
    kernels::check_finite(b.high_condition, static_cast<u64>(H * B * N * W), b.state, b.fault, kTransformerHigh);
    kernels::start_high(b.dit_x, b.initial, b.timestep, b.state, chain.timesteps.data(), chain.table.data(), b.tokens,
                        b.high_ranks, b.images, noise(step, GivenDraws::kInitialNoise, high_positions_.data(), N),
                        word(B), word(H), word(N), word(C));
    for (std::int64_t k = chain.length() - 1; k >= 0; --k) {
        run_engine(*networks_.dit_head, {{"x", b.dit_x, {H * B, N, C}},
                                         {"timestep", b.timestep, {1}},
                                         {"condition", b.high_condition, {H * B, N, W}},
                                         {"prediction", b.dit_prediction, {H * B, N, C}}});
        if (chain.adds_noise)
            kernels::dit_step(b.dit_x, b.timestep, b.tokens, b.state, chain.timesteps.data(), chain.table.data(),
                              b.dit_prediction, b.initial, b.high_ranks, b.images,
                              noise(step, k, high_positions_.data(), N), b.fault, word(B), word(H), word(N), word(C));
        else
            kernels::dit_solve(b.dit_x, b.start, b.timestep, b.tokens, b.state, chain.timesteps.data(),
                               chain.table.data(), b.dit_prediction, b.initial, b.high_ranks, b.fault, word(B), word(H),
                               word(N), word(C));
    }
}

}  // namespace himar::core
