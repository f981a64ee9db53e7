#include "lane.h"

#include <algorithm>
#include <chrono>

#include "fault.h"
#include "solver_chain.h"
#include "step_state.h"

namespace himar::core {

Lane::Lane(Networks networks, const ModelInfo& model)
    : networks_(std::move(networks)),
      model_(model),
      widths_(networks_.widths()) {}

bool Lane::run(const Chunk& chunk, const Sampling& sampling, const GoOn& go_on, u8* pixels) {
    batch_ = static_cast<std::int64_t>(chunk.labels.size());
    const std::vector<Step> steps = plan(sampling, model_.low_positions(), model_.high_positions());
    const Chain low = build_chain(sampling.low_solver, sampling.low_diffusion_steps);
    const Chain high = build_chain(sampling.high_solver, sampling.high_diffusion_steps);
    reserve(batch_);
    set_state(steps.front(), low, chunk.seed, sampling.temperature);  // the orders need the seed
    begin(chunk);
    for (const Step& step : steps) {
        const bool is_low = step.phase == HIMAR_PHASE_LOW;
        set_state(step, is_low ? low : high, chunk.seed, sampling.temperature);
        if (is_low)
            low_step(step, low);
        else
            high_step(step, high);
        check_fault(*buffers_->fault);
        if (!go_on) continue;
        if (is_low) write_low_latents();
        if (!go_on(step, buffers_->low_latents)) return false;
    }
    write_low_latents();
    kernels::latents(buffers_->latents, buffers_->tokens, static_cast<float>(model_.vae_scale),
                     static_cast<u32>(batch_), static_cast<u32>(model_.high_positions()),
                     static_cast<u32>(model_.channels));
    if (pixels != nullptr) decode(pixels);
    return true;
}

// Memory for the largest chunk so far: a service that draws one image at a time never pays for max_batch.
void Lane::reserve(std::int64_t batch) {
    if (buffers_ != nullptr && buffers_->batch() >= batch) return;
    networks_.forget_places();
    buffers_.reset();
    buffers_ = std::make_unique<Buffers>(model_, batch, widths_, allocate_host);
}

void Lane::begin(const Chunk& chunk) {
    Buffers& b = *buffers_;
    const std::int64_t B = batch_, S = model_.low_positions(), N = model_.high_positions(), C = model_.channels;
    for (std::int64_t i = 0; i < B; ++i) {
        b.images[i] = static_cast<u32>(chunk.first_index + static_cast<std::uint64_t>(i));
        b.class_row[i] = chunk.labels[static_cast<std::size_t>(i)];
        b.class_row[B + i] = model_.classes;  // the row of no class
    }
    *b.fault = 0;
    // The transformers embed masked positions too, before they drop them.
    std::fill_n(b.low_tokens, 2 * B * S * C, 0.0f);
    std::fill_n(b.tokens, 2 * B * N * C, 0.0f);
    std::fill_n(b.pivots, 2 * B * S * model_.width, 0.0f);
    draws_.reset();
    if (chunk.draws == nullptr) {
        kernels::ranks(b.low_ranks, b.images, b.state, HIMAR_PHASE_LOW, static_cast<u32>(B), static_cast<u32>(S));
        kernels::ranks(b.high_ranks, b.images, b.state, HIMAR_PHASE_HIGH, static_cast<u32>(B), static_cast<u32>(N));
        return;
    }
    draws_.emplace(*chunk.draws);
    draws_->ranks(b.low_ranks, HIMAR_PHASE_LOW, b.images, B, S);
    draws_->ranks(b.high_ranks, HIMAR_PHASE_HIGH, b.images, B, N);
    high_positions_.resize(static_cast<std::size_t>(B * N));
    for (std::size_t i = 0; i < high_positions_.size(); ++i)
        high_positions_[i] = static_cast<u32>(i % static_cast<std::size_t>(N));
}

// The noise of reverse step k where draws are given; null lets the kernels draw the seed's. The last step has none.
const float* Lane::noise(const Step& step, std::int64_t k, const u32* positions, std::int64_t r) {
    if (!draws_ || k == 0) return nullptr;
    return draws_->noise(step, k, buffers_->images, positions, batch_, r, model_.channels);
}

void Lane::set_state(const Step& step, const Chain& chain, std::uint64_t seed, double temperature) {
    *buffers_->state = step_state(step, chain.length(), seed, temperature);
}

void Lane::write_low_latents() {
    kernels::latents(buffers_->low_latents, buffers_->low_tokens, static_cast<float>(model_.vae_scale),
                     static_cast<u32>(batch_), static_cast<u32>(model_.low_positions()),
                     static_cast<u32>(model_.channels));
}

void Lane::decode(u8* pixels) {
    const std::int64_t C = model_.channels, grid = model_.grid(), side = model_.img_size;
    for (std::int64_t first = 0; first < batch_; first += kDecodeBatch) {
        const std::int64_t count = std::min(kDecodeBatch, batch_ - first);
        run_engine(*networks_.vae_decoder,
                   {{"latent", buffers_->latents + first * C * grid * grid, {count, C, grid, grid}},
                    {"image", buffers_->image, {count, 3, side, side}}});
        kernels::pack(pixels + first * side * side * 3, buffers_->image, buffers_->fault, static_cast<u32>(count),
                      static_cast<u32>(side * side));
    }
    check_fault(*buffers_->fault);
}

void Lane::run_engine(Engine& engine, Places places) {
    const auto start = std::chrono::steady_clock::now();
    engine.run(places);
    engine_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace himar::core
