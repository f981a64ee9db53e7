// The autoregressive steps on the device: index lists → transformer → head and reverse steps → tokens.
#include "lane.h"

namespace himar::core {
namespace {

u32 word(std::int64_t value) { return static_cast<u32>(value); }

std::int64_t number(Segment segment) { return static_cast<std::int64_t>(segment); }

}  // namespace

// Queue a step: sample the tokens of its revealed low positions and capture their pivots.
void ResidentLane::low_step(const Step& step) {
    const Buffers& b = buffers_;
    const std::int64_t B = batch_, H = step.halves(), r = step.revealed, S = model_.low_positions(), K = model_.buffer;
    const std::int64_t C = model_.channels, D = model_.width, W = widths_.mlp, L = S + model_.high_positions();
    ResidentDevice& device = *networks_.lane;
    const float* const noise = noise_->address();
    replays_.run({number(Segment::kTransformerLow), B, H, step.masked, r, 0}, [&] {
        device.launch(launches::index_lists(b.visible, b.sources, b.revealed, b.low_ranks, b.state, word(B), word(H),
                                            word(K), 0, word(S), word(L)));
        networks_.transformer_low->run({{"class_row", b.class_row, {H * B}},
                                        {"low_tokens", b.low_tokens, {H * B, S, C}},
                                        {"visible", b.visible, {H * B, K + S - step.masked}},
                                        {"sources", b.sources, {H * B, K + L}},
                                        {"pivots", b.engine_pivots, {H * B, S, D}},
                                        {"condition", b.low_condition, {H * B, S, W}}});
        device.launch(launches::reveal_low(b.head_condition, b.pivots, b.low_condition, b.engine_pivots, b.revealed,
                                           b.state, b.fault, word(B), word(H), word(S), word(r), word(W), word(D)));
    });
    noise_->initial(step);
    device.launch(launches::start_low(b.mlp_x, b.timestep, b.state, tables_.low_timesteps, b.images, b.revealed, noise,
                                      word(B), word(H), word(r), word(C)));
    for (std::int64_t k = low_.length() - 1; k >= 0; --k) {
        if (low_.adds_noise) noise_->at(step, k);
        replays_.run({number(Segment::kMlpHead), B, H, r, low_.adds_noise, noise != nullptr}, [&] {
            networks_.mlp_head->run({{"x", b.mlp_x, {H * B * r, C}},
                                     {"timestep", b.timestep, {1}},
                                     {"condition", b.head_condition, {H * B * r, W}},
                                     {"prediction", b.mlp_prediction, {H * B * r, 2 * C}}});
            device.launch(
                low_.adds_noise
                    ? launches::mlp_step(b.mlp_x, b.timestep, b.low_tokens, b.state, tables_.low_timesteps,
                                         tables_.low_chain, b.mlp_prediction, b.images, b.revealed, noise, b.fault,
                                         word(B), word(H), word(S), word(r), word(C))
                    : launches::mlp_solve(b.mlp_x, b.start, b.timestep, b.low_tokens, b.state, tables_.low_timesteps,
                                          tables_.low_chain, b.mlp_prediction, b.revealed, b.fault, word(B), word(H),
                                          word(S), word(r), word(C)));
        });
    }
}

// Queue a step: denoise all high positions under the pivots; known ones follow their tokens.
void ResidentLane::high_step(const Step& step) {
    const Buffers& b = buffers_;
    const std::int64_t B = batch_, H = step.halves(), S = model_.low_positions(), N = model_.high_positions();
    const std::int64_t C = model_.channels, D = model_.width, W = widths_.dit, K = model_.buffer;
    constexpr u32 kComponent = 2;  // transformer_high, as a fault word counts components
    ResidentDevice& device = *networks_.lane;
    const float* const noise = noise_->address();
    replays_.run({number(Segment::kTransformerHigh), B, H, step.masked, 0, 0}, [&] {
        device.launch(launches::index_lists(b.visible, b.sources, b.revealed, b.high_ranks, b.state, word(B), word(H),
                                            word(K), word(S), word(N), word(S + N)));
        networks_.transformer_high->run({{"class_row", b.class_row, {H * B}},
                                         {"pivots", b.pivots, {H * B, S, D}},
                                         {"tokens", b.tokens, {H * B, N, C}},
                                         {"visible", b.visible, {H * B, K + S + N - step.masked}},
                                         {"sources", b.sources, {H * B, K + S + N}},
                                         {"condition", b.high_condition, {H * B, N, W}}});
        device.launch(launches::check_finite(b.high_condition, static_cast<u64>(H * B * N * W), b.state, b.fault,
                                             kComponent));
    });
    noise_->initial(step);
    device.launch(launches::start_high(b.dit_x, b.initial, b.timestep, b.state, tables_.high_timesteps,
                                       tables_.high_chain, b.tokens, b.high_ranks, b.images, noise, word(B), word(H),
                                       word(N), word(C)));
    for (std::int64_t k = high_.length() - 1; k >= 0; --k) {
        if (high_.adds_noise) noise_->at(step, k);
        replays_.run({number(Segment::kDitHead), B, H, high_.adds_noise, noise != nullptr, 0}, [&] {
            networks_.dit_head->run({{"x", b.dit_x, {H * B, N, C}},
                                     {"timestep", b.timestep, {1}},
                                     {"condition", b.high_condition, {H * B, N, W}},
                                     {"prediction", b.dit_prediction, {H * B, N, C}}});
            device.launch(
                high_.adds_noise
                    ? launches::dit_step(b.dit_x, b.timestep, b.tokens, b.state, tables_.high_timesteps,
                                         tables_.high_chain, b.dit_prediction, b.initial, b.high_ranks, b.images, noise,
                                         b.fault, word(B), word(H), word(N), word(C))
                    : launches::dit_solve(b.dit_x, b.start, b.timestep, b.tokens, b.state, tables_.high_timesteps,
                                          tables_.high_chain, b.dit_prediction, b.initial, b.high_ranks, b.fault,
                                          word(B), word(H), word(N), word(C)));
        });
    }
}

}  // namespace himar::core
