// A bundle on the CPU's queue and on one that behaves like a GPU's, and what must be the same of them.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bundle/bundle.h"
#include "bundles.h"
#include "chunks.h"
#include "closeness.h"
#include "families/hi_mar/lane.h"
#include "tracing_queue.h"

using namespace himar::core;
using namespace himar::core::hi_mar;

struct Made {
    bool finished;
    std::vector<float> latents, preview_latents;
    std::vector<std::uint8_t> pixels;
};

// A bundle on two lanes: on the CPU's queue, and on one that behaves like a GPU's.
class Pair {
public:
    explicit Pair(const std::string& name = "tiny", const std::string& refusal = "")
        : opened_(Bundle::open(bundle(name))),
          host(load(), model(), max_batch(), empty()),
          device(std::make_shared<TracingQueue>()),
          resident(traced(load(), device, refusal), model(), max_batch(), empty()) {}

    ~Pair() { CHECK(device->kept_inside()); }

    const HiMarModel& model() const { return static_cast<const HiMarModel&>(*opened_.manifest().model); }
    Sampling setting() const { return static_cast<const Sampling&>(*opened_.manifest().sampling.front().second); }

    Made on_host(const Chunk& chunk, const Sampling& sampling) { return run(host, chunk, sampling); }
    Made on_device(const Chunk& chunk, const Sampling& sampling, const Lane::ShouldContinue& should_continue = {}) {
        return run(resident, chunk, sampling, should_continue);
    }
    Made run(Lane& lane, const Chunk& chunk, const Sampling& sampling,
             const Lane::ShouldContinue& should_continue = {}) const {
        const auto side = static_cast<std::size_t>(model().img_size);
        Made made;
        made.pixels.resize(lane.has_decoder() ? chunk.labels.size() * side * side * 3 : 0);
        made.finished = lane.run(chunk, sampling, should_continue, lane.has_decoder() ? made.pixels.data() : nullptr);
        if (made.finished) made.latents = lane.latents(), made.preview_latents = lane.low_latents();
        return made;
    }

private:
    Networks load() const { return load_networks(opened_, {"cpu", "", 1}); }
    std::shared_ptr<const std::vector<float>> empty() const {
        if (!model().is_from_text()) return nullptr;
        const std::vector<std::int64_t> shape = {model().buffer, model().context_width};
        return std::make_shared<const std::vector<float>>(opened_.floats(model().empty_context, shape, "model.empty_context"));
    }
    std::int64_t max_batch() const { return opened_.manifest().max_batch; }

    Bundle opened_;

public:
    HiMarLane host;
    std::shared_ptr<TracingQueue> device;
    HiMarLane resident;
};

inline void same(const Made& made, const Made& wanted) {
    REQUIRE(made.finished);
    CHECK(relative(made.latents, wanted.latents) <= kSameEngines);
    REQUIRE(made.preview_latents.size() == wanted.preview_latents.size());
    if (!wanted.preview_latents.empty()) CHECK(relative(made.preview_latents, wanted.preview_latents) <= kSameEngines);
    CHECK(pixels_apart(made.pixels, wanted.pixels) <= 1);
}

inline Sampling guided() {
    Sampling sampling;
    sampling.low_steps = 3, sampling.high_steps = 2;
    sampling.low_guidance = 1.5, sampling.high_guidance = 2.0;
    sampling.low_diffusion_steps = 6, sampling.high_diffusion_steps = 5;
    return sampling;
}

// Chains of 12 and 10 that leave evaluations out: all but 6 of phase low's are forecast.
inline Sampling forecast() {
    Sampling sampling = guided();
    sampling.low_diffusion_steps = 12, sampling.high_diffusion_steps = 10;
    sampling.low_forecast = 4, sampling.high_forecast = 3, sampling.forecast_first = 2, sampling.forecast_last = 1;
    return sampling;
}

// Chains and scales of each step's own.
inline Sampling listed() {
    Sampling sampling = guided();
    sampling.low_diffusion_counts = {6, 6, 4}, sampling.high_diffusion_counts = {5, 3};
    sampling.low_guidances = {1, 1.5, 2.5}, sampling.high_guidances = {1.2, 2}, sampling.least_guidance = 1.4;
    return sampling;
}

// Every kind of step: with and without guidance and noise, one step and many, recorded and not, of chains that leave
// evaluations out and of others.
inline std::vector<Sampling> settings() {
    std::vector<Sampling> all(9, guided());
    all[1].low_guidance = 1;
    all[2].high_guidance = 1, all[2].temperature = 0.7;
    all[3].low_guidance = all[3].high_guidance = 1, all[3].guidance_schedule = "constant";
    all[4].low_steps = all[4].high_steps = 1, all[4].low_diffusion_steps = 2, all[4].high_diffusion_steps = 3;
    all[5].low_steps = 4, all[5].high_steps = 16, all[5].low_diffusion_steps = 3, all[5].high_diffusion_steps = 2;
    all[6].low_solver = "dpm++", all[6].high_solver = "ddim";
    all[7].low_solver = "ddim", all[7].high_solver = "dpm++", all[7].low_guidance = all[7].high_guidance = 1;
    all[8].high_solver = "dpm++", all[8].temperature = 0.7;
    all.push_back(forecast());
    all.push_back(forecast());
    all.back().forecast_order = 2, all.back().low_solver = "ddim", all.back().high_solver = "dpm++";
    all.push_back(guided());
    all.back().guidance_interval = 2;
    all.push_back(forecast());
    all.back().forecast_order = 0, all.back().guidance_interval = 3;
    all.push_back(forecast());
    all.back().low_guidance = all.back().high_guidance = 1, all.back().high_forecast = 1;
    all.push_back(listed());
    all.push_back(listed());
    all.back().low_forecast = all.back().high_forecast = 2, all.back().forecast_first = 2, all.back().guidance_interval = 2;
    return all;
}
