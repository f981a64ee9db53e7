// A bundle on both loops, on the host and resident on a device in the host's memory, and what must be the same of them.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bundle.h"
#include "bundles.h"
#include "closeness.h"
#include "host_device.h"
#include "lane.h"
#include "resident/lane.h"

using namespace himar::core;

struct Made {
    bool finished;
    std::vector<float> latents, low_latents;
    std::vector<std::uint8_t> pixels;
};

// A bundle on both loops.
class Pair {
public:
    explicit Pair(const std::string& name = "tiny", const std::string& refusal = "")
        : opened_(Bundle::open(bundle(name))),
          host_(load_networks(opened_, request()), model()),
          device(std::make_shared<HostDevice>()),
          resident(on_host_device(load_networks(opened_, request()), device, refusal), model(),
                   opened_.manifest().max_batch) {}

    ~Pair() { CHECK(device->kept_inside()); }

    const ModelInfo& model() const { return opened_.manifest().model; }
    Sampling setting() const { return opened_.manifest().sampling.front().second; }

    Made on_host(const Chunk& chunk, const Sampling& sampling) { return run(host_, chunk, sampling); }
    Made on_device(const Chunk& chunk, const Sampling& sampling, const Runner::GoOn& go_on = {}) {
        return run(resident, chunk, sampling, go_on);
    }
    Made run(Runner& runner, const Chunk& chunk, const Sampling& sampling, const Runner::GoOn& go_on = {}) const {
        const auto B = static_cast<std::int64_t>(chunk.labels.size());
        const std::int64_t C = model().channels, side = model().img_size;
        Made made;
        made.pixels.resize(runner.has_decoder() ? static_cast<std::size_t>(B * side * side * 3) : 0);
        made.finished = runner.run(chunk, sampling, go_on, runner.has_decoder() ? made.pixels.data() : nullptr);
        if (!made.finished) return made;
        made.latents.assign(runner.latents(), runner.latents() + B * C * model().high_positions());
        made.low_latents.assign(runner.low_latents(), runner.low_latents() + B * C * model().low_positions());
        return made;
    }

private:
    static LoadRequest request() { return {"cpu", "", 1}; }

    Bundle opened_;
    Lane host_;

public:
    Runner& host() { return host_; }
    std::shared_ptr<HostDevice> device;
    ResidentLane resident;
};

inline void same(const Made& made, const Made& wanted) {
    REQUIRE(made.finished);
    CHECK(relative(made.latents, wanted.latents) <= kSameEngines);
    CHECK(relative(made.low_latents, wanted.low_latents) <= kSameEngines);
    CHECK(pixels_apart(made.pixels, wanted.pixels) <= 1);
}

inline Sampling guided() {
    Sampling sampling;
    sampling.low_steps = 3, sampling.high_steps = 2;
    sampling.low_guidance = 1.5, sampling.high_guidance = 2.0;
    sampling.low_diffusion_steps = 6, sampling.high_diffusion_steps = 5;
    return sampling;
}

// Every kind of step: with and without guidance and noise, one step and many, recorded and not.
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
    return all;
}
