#include "lane.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "../error.h"
#include "../solver_chain.h"
#include "../step_state.h"

namespace himar::core {
namespace {

// A step whose results are on their way while the next one is queued.
struct Behind {
    Step step;
    std::unique_ptr<Mark> mark;
    const float* low_latents;
};

// The calling thread may not have used this device before.
Networks made_current(Networks networks) {
    networks.lane->make_current();
    return networks;
}

std::size_t bytes_of_floats(std::int64_t count) { return static_cast<std::size_t>(count) * sizeof(float); }

}  // namespace

ResidentLane::ResidentLane(Networks networks, const ModelInfo& model, std::int64_t batch)
    : networks_(made_current(std::move(networks))),
      model_(model),
      most_(batch),
      widths_(networks_.widths()),
      buffers_(model, batch, widths_, [this](std::size_t bytes) { return networks_.lane->allocate(bytes); }),
      tables_(model, batch, [this](std::size_t bytes) { return networks_.lane->allocate(bytes); }),
      staged_(std::static_pointer_cast<float>(networks_.lane->allocate_staging(
          2 * bytes_of_floats(batch * model.low_positions() * model.channels)))),
      replays_(*networks_.lane, [this] { return networks_.without_recording(); }) {}

// On whatever thread lets go of it.
ResidentLane::~ResidentLane() {
    try {
        networks_.lane->make_current();
        networks_.lane->synchronize();
    } catch (const EngineError&) {  // there is nobody to tell
    }
}

bool ResidentLane::run(const Chunk& chunk, const Sampling& sampling, const GoOn& go_on, u8* pixels) {
    bool finished = false;
    try {
        finished = generate(chunk, sampling, go_on, pixels);
    } catch (...) {
        try {
            networks_.lane->make_current();  // a user's function may have left another GPU behind
            networks_.lane->synchronize();
        } catch (const EngineError&) {  // the first error is the one to tell
        }
        throw;
    }
    // The caller may let go of everything: nothing queued may still use it then.
    if (!finished) networks_.lane->synchronize();
    return finished;
}

bool ResidentLane::generate(const Chunk& chunk, const Sampling& sampling, const GoOn& go_on, u8* pixels) {
    ResidentDevice& device = *networks_.lane;
    device.make_current();
    const std::vector<Step> steps = begin(chunk, sampling);
    const std::int64_t preview = batch_ * model_.low_positions() * model_.channels;
    std::optional<Behind> behind;
    const auto report = [&](Behind& done) {
        done.mark->wait();
        reported_ = done.low_latents;
        const bool answer = go_on(done.step, done.low_latents);
        device.make_current();  // the callback is a user's, who may use another GPU
        return answer;
    };
    for (std::size_t index = 0; index < steps.size(); ++index) {
        queue_step(steps[index], index);
        if (!go_on) continue;
        float* const staged = staged_.get() + static_cast<std::int64_t>(index % 2) * preview;
        device.launch(launches::latents(buffers_.low_latents, buffers_.low_tokens, static_cast<float>(model_.vae_scale),
                                        static_cast<u32>(batch_), static_cast<u32>(model_.low_positions()),
                                        static_cast<u32>(model_.channels)));
        device.fetch(staged, buffers_.low_latents, bytes_of_floats(preview));
        std::optional<Behind> before = std::move(behind);
        behind = Behind{steps[index], device.mark(), staged};
        if (before && !report(*before)) return false;
    }
    queue_latents();
    if (pixels != nullptr) queue_decoding();
    if (behind && !report(*behind)) return false;
    fetch_results(pixels);
    return true;
}

// Upload what the chunk's steps need and queue the orders of its images.
std::vector<Step> ResidentLane::begin(const Chunk& chunk, const Sampling& sampling) {
    const Buffers& b = buffers_;
    ResidentDevice& device = *networks_.lane;
    const std::int64_t S = model_.low_positions(), N = model_.high_positions(), C = model_.channels;
    batch_ = static_cast<std::int64_t>(chunk.labels.size());
    const std::vector<Step> steps = plan(sampling, S, N);
    low_ = build_chain(sampling.low_solver, sampling.low_diffusion_steps);
    high_ = build_chain(sampling.high_solver, sampling.high_diffusion_steps);
    std::vector<StepState> states;
    for (const Step& step : steps)
        states.push_back(step_state(step, (step.phase == HIMAR_PHASE_LOW ? low_ : high_).length(), chunk.seed,
                                    sampling.temperature));
    device.upload(tables_.steps, states.data(), states.size() * sizeof(StepState));
    device.upload(b.state, states.data(), sizeof(StepState));  // the orders need the seed
    std::vector<i64> rows(chunk.labels.begin(), chunk.labels.end());
    rows.resize(2 * chunk.labels.size(), model_.classes);  // the row of no class
    device.upload(b.class_row, rows.data(), rows.size() * sizeof(i64));
    device.upload(tables_.low_timesteps, low_.timesteps.data(), low_.timesteps.size() * sizeof(i64));
    device.upload(tables_.high_timesteps, high_.timesteps.data(), high_.timesteps.size() * sizeof(i64));
    device.upload(tables_.low_chain, low_.table.data(), low_.table.size() * sizeof(float));
    device.upload(tables_.high_chain, high_.table.data(), high_.table.size() * sizeof(float));
    device.clear(b.fault, sizeof(u32));
    // The transformers embed masked positions too, before they drop them.
    device.clear(b.low_tokens, bytes_of_floats(2 * batch_ * S * C));
    device.clear(b.tokens, bytes_of_floats(2 * batch_ * N * C));
    device.clear(b.pivots, bytes_of_floats(2 * batch_ * S * model_.width));
    noise_.emplace(device, buffers_, tables_, model_, chunk);
    noise_->order(HIMAR_PHASE_LOW, S, b.low_ranks);
    noise_->order(HIMAR_PHASE_HIGH, N, b.high_ranks);
    return steps;
}

void ResidentLane::queue_step(const Step& step, std::size_t index) {
    networks_.lane->copy(buffers_.state, tables_.steps + index, sizeof(StepState));
    if (step.phase == HIMAR_PHASE_LOW)
        low_step(step);
    else
        high_step(step);
}

double ResidentLane::engine_seconds() const { return std::numeric_limits<double>::quiet_NaN(); }

std::unique_ptr<Runner> ResidentLane::clone() const {
    return std::make_unique<ResidentLane>(networks_.clone(), model_, most_);
}

}  // namespace himar::core
