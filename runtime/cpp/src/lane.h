// One lane: engines, buffers and the two-phase loop over them (docs/resident-loop.md), one request at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "buffers.h"
#include "chain.h"
#include "networks.h"
#include "schedule.h"

namespace himar::core {

// What to generate in one run of the engines: as many labels as images, at most the bundle's max_batch.
struct Chunk {
    std::vector<std::int64_t> labels;
    std::uint64_t first_index;  // image index of the first label; the others follow
    std::uint64_t seed;
};

class Lane {
public:
    // Called after every autoregressive step with the low latents of the chunk (B, C, s, s); false cancels.
    using GoOn = std::function<bool(const Step&, const float* low_latents)>;

    // BundleError when a head's condition has no fixed width.
    Lane(Networks networks, const ModelInfo& model);

    // Run a chunk; its results lie in `buffers` afterwards: low_latents, latents, and pixels where `pixels` (B, H, W, 3)
    // is given. Returns false when cancelled. EngineError when an engine fails or gives NaN.
    bool run(const Chunk& chunk, const Sampling& sampling, const GoOn& go_on, u8* pixels);

    const Buffers& buffers() const { return *buffers_; }
    bool has_decoder() const { return networks_.vae_decoder != nullptr; }
    double engine_seconds() const { return engine_seconds_; }  // since the lane was made
    Networks clone_networks() const { return networks_.clone(); }

private:
    void reserve(std::int64_t batch);
    void begin(const Chunk& chunk);
    void set_state(const Step& step, const Chain& chain, std::uint64_t seed, double temperature);
    void low_step(const Step& step, const Chain& chain);
    void high_step(const Step& step, const Chain& chain);
    void write_low_latents();
    void decode(u8* pixels);
    void run_engine(Engine& engine, Places places);
    void check_fault() const;

    Networks networks_;
    ModelInfo model_;
    Widths widths_;
    std::unique_ptr<Buffers> buffers_;
    std::int64_t batch_ = 0;  // B of the chunk under way
    double engine_seconds_ = 0;
};

}  // namespace himar::core
