#include "families/hi_mar/lane.h"

#include <algorithm>
#include <utility>

#include "error.h"
#include "families/hi_mar/editing.h"

namespace himar::core::hi_mar {
namespace {

constexpr std::int64_t kDecoderSegment = 4;  // after two components of each phase

std::size_t bytes_of_floats(std::int64_t count) { return static_cast<std::size_t>(count) * sizeof(float); }

// What a step's kernels start from (himar_kernels/families/hi_mar/device_state.py); k starts at chain_length - 1.
StepState state_of(const Step& step, double temperature) {
    StepState state{};
    state.phase = step.is_low ? 0 : 1;
    state.step = static_cast<u32>(step.index);
    state.masked = static_cast<u32>(step.masked);
    state.revealed = static_cast<u32>(step.revealed);
    state.chain_length = static_cast<u32>(step.diffusion_steps);
    state.k = state.chain_length - 1;
    state.guidance = static_cast<float>(step.guidance);
    state.temperature = static_cast<float>(temperature);
    return state;
}

// How many steps a stage has.
std::int64_t steps_of(const std::vector<Step>& steps, std::size_t stage) {
    return std::count_if(steps.begin(), steps.end(), [&](const Step& step) { return step.stage == stage; });
}

}  // namespace

HiMarLane::HiMarLane(Networks networks, const HiMarModel& model, std::int64_t max_batch,
                     std::shared_ptr<const std::vector<float>> empty)
    : QueuedLane(std::move(networks)),
      model_(model),
      max_batch_(max_batch),
      empty_(std::move(empty)),
      replays_(queue(), [this] { return networks_.without_recording(); }) {
    for (const PhaseInfo& phase : model_.phases()) {
        Engine& head = *networks_.find(phase.head);
        stages_.push_back({phase, networks_.find(phase.transformer), &head, condition_width(head.spec()), {}, nullptr, {}, {}});
    }
    if (queue().runs_at_once()) return;
    queue().make_current();  // the calling thread may not have used this device before
    reserve(max_batch);
}

HiMarLane::~HiMarLane() { settle(); }

bool HiMarLane::generate(const Chunk& chunk, const Settings& settings, std::uint8_t* pixels) {
    const std::vector<Step> steps = begin(chunk, static_cast<const Sampling&>(settings));
    const std::int64_t preview = batch_ * model_.low_positions() * model_.channels;
    const std::int64_t whole = batch_ * model_.high_positions() * model_.channels;
    for (std::size_t index = 0; index < steps.size(); ++index) {
        queue_step(steps[index], index);
        if (queue().runs_at_once()) check_fault();
        if (!is_asked()) continue;
        float* const staged = staged_.get() + static_cast<std::int64_t>(index % 2) * (preview + whole);
        if (!model_.single_scale()) {
            queue_latents(buffers_->preview, stages_.front().phase, 0);
            queue().fetch(staged, buffers_->preview, bytes_of_floats(preview));
        }
        const Step& step = steps[index];
        if (!step.is_low) {
            queue_latents(buffers_->latents, stages_[step.stage].phase, step.stage);
            queue().fetch(staged + preview, buffers_->latents, bytes_of_floats(whole));
        }
        if (!report({step.stage, step.phase_name(), step.index, steps_of(steps, step.stage)}, staged,
                    step.is_low ? nullptr : staged + preview))
            return false;
    }
    if (!model_.single_scale()) queue_latents(buffers_->preview, stages_.front().phase, 0);
    queue_latents(buffers_->latents, stages_.back().phase, stages_.size() - 1);
    if (pixels != nullptr) {
        const Buffers& b = *buffers_;
        const Decoding what{b.latents, b.image, b.pixels, b.fault, batch_, model_.channels, model_.grid(), model_.img_size};
        queue_decoding(what, &replays_, kDecoderSegment);
    }
    if (!report_last()) return false;
    fetch_results(pixels);
    return true;
}

// Have room for so many images: the places of earlier runs are given up where there was less.
void HiMarLane::reserve(std::int64_t batch) {
    if (buffers_ && buffers_->batch() >= batch) return;
    networks_.forget_places();
    buffers_.reset();
    for (Stage& stage : stages_) stage.held.reset();
    std::vector<std::int64_t> widths;
    for (const Stage& stage : stages_) widths.push_back(stage.width);
    buffers_.emplace(model_, batch, widths, queue());
    staged_ = std::static_pointer_cast<float>(
        queue().allocate_staging(2 * bytes_of_floats(batch * model_.positions() * model_.channels)));
}

// Have room for the modulations of a phase's DiT head: Model::check_components has found both of its parts.
void HiMarLane::have_held(Stage& stage) {
    if (stage.held != nullptr) return;
    Engine &maker = *networks_.need(stage.phase.modulations()), &head = *networks_.need(stage.phase.held());
    stage.held = std::make_unique<HeldModulations>(maker, head, 2 * buffers_->batch(), queue());
}

// Upload what the chunk's steps need and queue the orders of its images.
std::vector<Step> HiMarLane::begin(const Chunk& chunk, const Sampling& sampling) {
    batch_ = static_cast<std::int64_t>(chunk.labels.size());
    reserve(batch_);
    const Buffers& b = *buffers_;
    std::optional<DrawnCounts> counts;
    if (chunk.edit != nullptr) counts = drawn_counts(*chunk.edit, 0, model_);
    const std::vector<Step> steps = plan(sampling, model_.low_positions(), model_.high_positions(), counts);
    for (Stage& stage : stages_) {
        stage.chains.clear();
        stage.uploaded = nullptr;
        stage.evaluations = sampling.phase(stage.phase.is_low).evaluations;
        if (sampling.modulation_interval > 1 && stage.phase.kind == HeadKind::kDit) have_held(stage);
    }
    std::vector<StepState> states;
    for (const Step& step : steps) {
        const std::string& solver = sampling.phase(step.is_low).solver;
        std::map<std::int64_t, Chain>& chains = stages_[step.stage].chains;
        if (chains.count(step.diffusion_steps) == 0)
            chains.emplace(step.diffusion_steps, build_chain(solver, step.diffusion_steps));
        if (step.index == 0) have_chain(step);
        states.push_back(state_of(step, sampling.temperature));
    }
    queue().upload(b.steps, states.data(), states.size() * sizeof(StepState));
    queue().clear(b.fault, sizeof(u32));
    show(chunk);
    noise_.emplace(queue(), b, model_.channels, chunk);
    for (std::size_t number = 0; number < stages_.size(); ++number) {
        const Stage& stage = stages_[number];
        const PhaseBuffers& own = b.phases[number];
        const std::int64_t n = stage.phase.positions();
        // The transformers embed masked positions too, before they drop them.
        queue().clear(own.tokens, bytes_of_floats(2 * batch_ * n * model_.channels));
        if (stage.phase.leaves_pivots) queue().clear(b.pivots, bytes_of_floats(2 * batch_ * n * model_.width));
    }
    sees_guides_ = false;
    if (chunk.edit != nullptr) keep(*chunk.edit);
    if (chunk.texts.tokens != nullptr) encode_texts();
    for (std::size_t number = 0; number < stages_.size(); ++number)
        noise_->order(number, stages_[number].phase, chunk.edit != nullptr ? &drawn_[number] : nullptr);
    return steps;
}

// Upload what the transformers' rows [conditional; unconditional] are to show: a class and that of none, or the contexts of
// a text and of the empty prompt. Of prompts the tokens, for encode_texts. Images of an edit that have neither class nor
// text show what unconditional rows do.
void HiMarLane::show(const Chunk& chunk) {
    const Buffers& b = *buffers_;
    if (!model_.is_from_text()) {
        std::vector<i64> rows(chunk.labels.begin(), chunk.labels.end());
        std::replace(rows.begin(), rows.end(), i64{kNoClass}, i64{model_.classes});
        rows.resize(2 * chunk.labels.size(), model_.classes);  // the row of no class
        return queue().upload(b.class_row, rows.data(), rows.size() * sizeof(i64));
    }
    const std::int64_t one = model_.context_size();
    const Texts& texts = chunk.texts;
    if (texts.contexts != nullptr)
        queue().upload(b.context, texts.contexts, bytes_of_floats(batch_ * one));
    else if (texts.tokens != nullptr)
        queue().upload(b.tokens, texts.tokens, static_cast<std::size_t>(batch_ * model_.buffer) * sizeof(i64));
    const bool is_shown = texts.contexts != nullptr || texts.tokens != nullptr;
    float* const unconditional = b.context + (is_shown ? batch_ * one : 0);
    queue().upload(unconditional, empty_->data(), bytes_of_floats(one));
    for (std::int64_t image = 1; image < (is_shown ? 1 : 2) * batch_; ++image)
        queue().copy(unconditional + image * one, unconditional, bytes_of_floats(one));
}

// Queue the text encoder, which makes contexts of the tokens. EngineError when it gives values that are not finite: on the
// host at once.
void HiMarLane::encode_texts() {
    const Buffers& b = *buffers_;
    const std::int64_t K = model_.buffer, W = model_.context_width;
    run_engine(*networks_.need(kTextEncoder), {{"tokens", b.tokens, {batch_, K}}, {"context", b.context, {batch_, K, W}}});
    // Of no step: any state serves.
    queue().launch(launches::check_finite(b.context, static_cast<u64>(batch_ * K * W), b.steps, b.fault, kTextEncoderFault));
    if (queue().runs_at_once()) check_fault();
}

// EngineError, naming component, phase and step, where a kernel met a value that was not finite.
void HiMarLane::check_fault() {
    u32 word = 0;
    queue().download(&word, buffers_->fault, sizeof word);
    if (word == 0) return;
    const u32 number = word & 0xFF;
    std::string component = number == kTextEncoderFault ? kTextEncoder : "vae_decoder", where;
    for (const Stage& stage : stages_) {
        const bool is_low = stage.phase.is_low, is_mlp = stage.phase.kind == HeadKind::kMlp;
        const bool is_transformer = number == (is_low ? kTransformerLow : kTransformerHigh);
        const u32 head = is_mlp ? (is_low ? kMlpHead : kMlpHeadHigh) : (is_low ? kDitHeadLow : kDitHead);
        if (!is_transformer && number != head) continue;
        component = is_transformer ? stage.phase.transformer : stage.phase.head;
        where = std::string(" in phase ") + stage.phase.name() + ", step " + std::to_string(word >> 8);
    }
    refuse_values(component, where);
}

}  // namespace himar::core::hi_mar
