// What runs a chunk from labels to pixels: the loop on the host (lane.h), or resident on a GPU (resident/lane.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "sampling.h"
#include "schedule.h"

namespace himar::core {

// What to generate in one run of the engines: as many labels as images, at most the bundle's max_batch.
struct Chunk {
    std::vector<std::int64_t> labels;
    std::uint64_t first_index;  // image index of the first label; the others follow
    std::uint64_t seed;
    const himar_draws* draws = nullptr;  // in place of the seed's
};

// Low-resolution images, uint8 (B, side, side, 3), RGB; valid until the runner makes others or runs on.
struct PreviewPixels {
    const std::uint8_t* pixels;
    std::int64_t side;
};

class Runner {
public:
    // Called after every autoregressive step with the low latents of the chunk (B, C, s, s); false cancels.
    using GoOn = std::function<bool(const Step&, const float* low_latents)>;

    virtual ~Runner() = default;

    // Run a chunk; `latents` and `low_latents` then hold its results, and `pixels` (B, H, W, 3) where it is given.
    // Returns false when cancelled. EngineError when an engine fails or gives NaN.
    virtual bool run(const Chunk& chunk, const Sampling& sampling, const GoOn& go_on, std::uint8_t* pixels) = 0;

    // Decode the low latents of the chunk under way; for `go_on`. InputError when there is no decoder, EngineError when
    // the decoder takes no latents of this size or fails.
    virtual PreviewPixels preview() = 0;

    virtual const float* latents() const = 0;      // (B, C, h, w) of the last chunk, in host memory
    virtual const float* low_latents() const = 0;  // (B, C, s, s)
    virtual bool has_decoder() const = 0;

    // Seconds that the engines ran since the runner was made; NaN where they are queued and nobody waits for them.
    virtual double engine_seconds() const = 0;

    // A runner for another lane: shared weights, own buffers. Any thread may call it, also during `run`.
    virtual std::unique_ptr<Runner> clone() const = 0;
};

}  // namespace himar::core
