// HMAR's tiny bundle on two lanes, and what their runs leave.
#pragma once

#include <doctest/doctest.h>

#include <memory>
#include <vector>

#include "bundle/bundle.h"
#include "bundles.h"
#include "chunks.h"
#include "closeness.h"
#include "families/hmar/lane.h"
#include "tracing_queue.h"

namespace himar::core::hmar {

struct Made {
    bool finished;
    std::vector<float> latents;
    std::vector<std::int64_t> codes;
    std::vector<std::uint8_t> pixels;
};

// The bundle on two lanes: on the CPU's queue, and on one that behaves like a GPU's.
class HmarLanes {
public:
    HmarLanes() : opened_(Bundle::open(bundle("tiny-hmar"))), device(std::make_shared<TracingQueue>()) {
        host = model().make_lane(opened_, load());
        resident = model().make_lane(opened_, traced(load(), device));
    }
    ~HmarLanes() { CHECK(device->kept_inside()); }

    const HmarModel& model() const { return static_cast<const HmarModel&>(*opened_.manifest().model); }
    Sampling setting() const { return static_cast<const Sampling&>(*opened_.manifest().sampling.front().second); }

    Made run(Lane& lane, const Chunk& chunk, const Sampling& sampling, const Lane::ShouldContinue& ask = {}) const {
        const auto side = static_cast<std::size_t>(model().image_side());
        Made made{};
        made.pixels.resize(chunk.labels.size() * side * side * 3);
        made.finished = lane.run(chunk, sampling, ask, made.pixels.data());
        if (made.finished) made.latents = lane.latents(), made.codes = lane.codes();
        return made;
    }

private:
    Networks load() const { return load_networks(opened_, {"cpu", "", 1}); }

    Bundle opened_;

public:
    std::shared_ptr<TracingQueue> device;
    std::unique_ptr<Lane> host, resident;
};

inline void same(const Made& made, const Made& wanted) {
    REQUIRE((made.finished && wanted.finished));
    CHECK(made.codes == wanted.codes);
    CHECK(relative(made.latents, wanted.latents) <= kSameEngines);
    CHECK(pixels_apart(made.pixels, wanted.pixels) <= 1);
}

}  // namespace himar::core::hmar
