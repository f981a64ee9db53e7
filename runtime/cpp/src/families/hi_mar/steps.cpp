// The autoregressive steps: index lists → transformer → head and reverse steps → tokens (docs/model.md §6).
#include "families/hi_mar/lane.h"

namespace himar::core::hi_mar {
namespace {

u32 word(std::int64_t value) { return static_cast<u32>(value); }

// Components as graph keys count them.
std::int64_t transformer_of(const Step& step) { return 2 * static_cast<std::int64_t>(step.stage); }
std::int64_t head_of(const Step& step) { return transformer_of(step) + 1; }

}  // namespace

// Have the chain of a step's head where the kernels look for it: it may lie there since the step before. Held modulations
// are of earlier timesteps than the chain's.
const Chain& HiMarLane::have_chain(const Step& step) {
    Stage& stage = stages_[step.stage];
    const PhaseBuffers& own = buffers_->phases[step.stage];
    const Chain& chain = stage.chains.at(step.diffusion_steps);
    if (stage.uploaded == &chain) return chain;
    std::vector<i64> timesteps = chain.timesteps;
    if (stage.holds())
        timesteps = stage.evaluations.held_timesteps(
            timesteps, stage.evaluations.halves(step.diffusion_steps, step.halves()));
    queue().upload(own.timesteps, timesteps.data(), timesteps.size() * sizeof(i64));
    queue().upload(own.chain, chain.table.data(), chain.table.size() * sizeof(float));
    stage.uploaded = &chain;
    return chain;
}

// Queue a step, the `index`-th of the plan, on what the steps before it left.
void HiMarLane::queue_step(const Step& step, std::size_t index) {
    queue().copy(buffers_->state, buffers_->steps + index, sizeof(StepState));
    queue_transformer(step);
    if (stages_[step.stage].phase.kind == HeadKind::kMlp)
        queue_mlp_head(step);
    else
        queue_dit_head(step);
}

// Leave the condition where the phase's head looks for it, and the pivots. An MLP head takes the rows that the step
// reveals, at head_condition; a DiT head takes all, at condition.
void HiMarLane::queue_transformer(const Step& step) {
    const Buffers& b = *buffers_;
    const Stage& stage = stages_[step.stage];
    const PhaseInfo& phase = stage.phase;
    const bool is_mlp = phase.kind == HeadKind::kMlp, visual = model_.pivots == Pivots::kVisual;
    const std::int64_t B = batch_, H = step.halves(), r = step.revealed, n = phase.positions(), K = model_.buffer;
    const std::int64_t C = model_.channels, W = stage.width, D = model_.width, L = model_.positions();
    const bool takes_rows = is_mlp || phase.leaves_pivots, sees_guides = sees_guides_ && !phase.is_low;
    const auto enqueue = [&] {
        queue().launch(launches::index_lists(b.visible, b.sources, b.revealed, b.phases[step.stage].ranks, b.state,
                                             word(B), word(H), word(K), word(phase.always), word(n), word(L)));
        const Place tensors[] = {
            model_.is_from_text() ? Place("context", b.context, {H * B, K, model_.context_width})
                                  : Place("class_row", b.class_row, {H * B}),
            {"visible", b.visible, {H * B, K + phase.always + n - step.masked}},
            {"sources", b.sources, {H * B, K + L}},
            {phase.tokens, b.phases[step.stage].tokens, {H * B, n, C}},
            {"condition", b.condition, {H * B, n, W}},
            // Visual pivots are the low tokens, which lie in both halves too.
            phase.leaves_pivots ? Place("pivots", b.engine_pivots, {H * B, n, D})
                                : Place("pivots", visual ? b.phases[0].tokens : b.pivots,
                                        {H * B, phase.always, phase.pivot_width}),
            {"guides", b.guides[H - 1], {H * B, phase.always}},
        };
        run_engine(sees_guides ? *edit_transformer_ : *stage.transformer,
                   {tensors, sees_guides ? 7u : phase.leaves_pivots || phase.pivot_width > 0 ? 6u : 5u});
        if (!is_mlp)
            queue().launch(launches::check_finite(b.condition, static_cast<u64>(H * B * n * W), b.state, b.fault,
                                                  phase.is_low ? kTransformerLow : kTransformerHigh));
        if (takes_rows)  // each checked; a width of 0 leaves out what the phase does not have
            queue().launch(launches::reveal_low(b.head_condition, b.pivots, b.condition, b.engine_pivots, b.revealed,
                                                b.state, b.fault, word(B), word(H), word(n), word(r),
                                                is_mlp ? word(W) : 0, phase.leaves_pivots ? word(D) : 0));
    };
    if (sees_guides)
        enqueue();  // a few runs of shapes that come once are not worth a graph
    else
        replays_.run({transformer_of(step), B, H, step.masked, takes_rows ? r : 0}, enqueue);
}

HiMarLane::Descent HiMarLane::descent(const Step& step) {
    const Stage& stage = stages_[step.stage];
    const Evaluations& evaluations = stage.evaluations;
    const bool keeps = evaluations.leaves_out();
    const std::vector<std::int64_t> halves = evaluations.halves(step.diffusion_steps, step.halves());
    const std::vector<std::int64_t> made =
        stage.holds() ? evaluations.modulated(halves) : std::vector<std::int64_t>(halves.size(), -1);
    return {have_chain(step), halves, made, keeps ? evaluations.order : -1,
            keeps ? buffers_->settled : buffers_->prediction};
}

// Where a chain may leave evaluations out, queue what its reverse steps take as their prediction: made of that of so many
// `evaluated` halves, or of none a forecast. rows: of one half.
void HiMarLane::queue_prediction(const Step& step, std::int64_t evaluated, std::int64_t rows) {
    const Buffers& b = *buffers_;
    const Stage& stage = stages_[step.stage];
    if (!stage.evaluations.leaves_out()) return;
    const u32 outputs = stage.phase.kind == HeadKind::kMlp ? 2 : 1, order = word(stage.evaluations.order);
    const u32 H = word(step.halves()), C = word(model_.channels);
    queue().launch(evaluated == 0
                       ? launches::forecast(b.settled, b.differences, b.state, word(rows), H, order, outputs, C)
                       : launches::keep_prediction(b.settled, b.differences, b.gap, b.state, b.prediction, word(rows), H,
                                                   word(evaluated), order, outputs, C));
}

// Sample the tokens of the revealed positions, one by one, from their conditions.
void HiMarLane::queue_mlp_head(const Step& step) {
    const Buffers& b = *buffers_;
    const Stage& stage = stages_[step.stage];
    const PhaseBuffers& own = b.phases[step.stage];
    const std::int64_t B = batch_, H = step.halves(), r = step.revealed, n = stage.phase.positions();
    const std::int64_t C = model_.channels, W = stage.width;
    const Descent down = descent(step);
    const bool adds_noise = down.chain.adds_noise;
    const float *const noise = noise_->address(), *const prediction = down.prediction;
    noise_->prepare(step, stage.phase, GivenDraws::kInitial);
    queue().launch(launches::start_low(b.x, b.timestep, b.state, own.timesteps, b.origins, b.revealed, noise, word(B),
                                       word(H), word(r), word(C)));
    for (std::int64_t k = step.diffusion_steps - 1; k >= 0; --k) {
        if (adds_noise) noise_->prepare(step, stage.phase, k);
        const std::int64_t E = down.halves[static_cast<std::size_t>(k)];
        replays_.run({head_of(step), B, H, r, adds_noise, noise != nullptr, E, down.kept}, [&] {
            if (E > 0)
                run_engine(*stage.head, {{"x", b.x, {E * B * r, C}},
                                         {"timestep", b.timestep, {1}},
                                         {"condition", b.head_condition, {E * B * r, W}},
                                         {"prediction", b.prediction, {E * B * r, 2 * C}}});
            queue_prediction(step, E, B * r);
            queue().launch(
                adds_noise
                    ? launches::mlp_step(b.x, b.timestep, own.tokens, b.state, own.timesteps, own.chain, prediction,
                                         b.origins, b.revealed, noise, b.fault, word(B), word(H), word(n), word(r),
                                         word(C))
                    : launches::mlp_solve(b.x, b.start, b.timestep, own.tokens, b.state, own.timesteps, own.chain,
                                          prediction, b.revealed, b.fault, word(B), word(H), word(n), word(r),
                                          word(C)));
        });
    }
}

// Evaluate a DiT head for so many halves; made: of how many its modulations are made before, -1 where they are not held.
void HiMarLane::queue_dit_evaluation(const Step& step, std::int64_t halves, std::int64_t made) {
    const Buffers& b = *buffers_;
    const Stage& stage = stages_[step.stage];
    const std::int64_t B = batch_, n = stage.phase.positions(), C = model_.channels, W = stage.width;
    const Place x("x", b.x, {halves * B, n, C}), prediction("prediction", b.prediction, {halves * B, n, C});
    const Place timestep("timestep", b.timestep, {1});
    if (made < 0)
        return run_engine(*stage.head, {x, timestep, {"condition", b.condition, {halves * B, n, W}}, prediction});
    const HeldModulations& held = *stage.held;
    if (made > 0)
        run_engine(held.maker(), held.with({timestep, {"condition", b.condition, {made * B, n, W}}}, made * B));
    run_engine(held.head(), held.with({x, prediction}, halves * B));
}

// Denoise all positions of the phase, known ones following their tokens; masked ones take their result.
void HiMarLane::queue_dit_head(const Step& step) {
    const Buffers& b = *buffers_;
    const Stage& stage = stages_[step.stage];
    const PhaseBuffers& own = b.phases[step.stage];
    const std::int64_t B = batch_, H = step.halves(), n = stage.phase.positions(), C = model_.channels;
    const Descent down = descent(step);
    const bool adds_noise = down.chain.adds_noise;
    const float *const noise = noise_->address(), *const prediction = down.prediction;
    noise_->prepare(step, stage.phase, GivenDraws::kInitial);
    queue().launch(launches::start_high(b.x, b.initial, b.timestep, b.state, own.timesteps, own.chain, own.tokens,
                                        own.ranks, b.origins, noise, word(B), word(H), word(n), word(C)));
    for (std::int64_t k = step.diffusion_steps - 1; k >= 0; --k) {
        if (adds_noise) noise_->prepare(step, stage.phase, k);
        const std::int64_t E = down.halves[static_cast<std::size_t>(k)];
        const std::int64_t made = down.made[static_cast<std::size_t>(k)];
        replays_.run({head_of(step), B, H, adds_noise, noise != nullptr, E, down.kept, made}, [&] {
            if (E > 0) queue_dit_evaluation(step, E, made);
            queue_prediction(step, E, B * n);
            queue().launch(
                adds_noise
                    ? launches::dit_step(b.x, b.timestep, own.tokens, b.state, own.timesteps, own.chain, prediction,
                                         b.initial, own.ranks, b.origins, noise, b.fault, word(B), word(H), word(n),
                                         word(C))
                    : launches::dit_solve(b.x, b.start, b.timestep, own.tokens, b.state, own.timesteps, own.chain,
                                          prediction, b.initial, own.ranks, b.fault, word(B), word(H), word(n),
                                          word(C)));
        });
    }
}

}  // namespace himar::core::hi_mar
