// One lane: engines, buffers and the loop over a queue of launches, one chunk of a request at a time.
//
// The same loop runs on the host, where everything has run when a call returns, and resident on a GPU
// (docs/resident-loop.md), where the host uploads, queues and downloads at the end.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engines/networks.h"
#include "families/hi_mar/buffers.h"
#include "families/hi_mar/chain.h"
#include "families/hi_mar/draws.h"
#include "families/hi_mar/sampling.h"
#include "queue/replays.h"

namespace himar::core {

// Low-resolution images, uint8 (B, side, side, 3), RGB; valid until the lane makes others or runs on.
struct PreviewPixels {
    const std::uint8_t* pixels;
    std::int64_t side;
};

class Lane {
public:
    // Called after every autoregressive step with the chunk's latents of phase low (B, C, s, s); false cancels.
    using GoOn = std::function<bool(const Step&, const float* preview)>;

    // On a GPU the buffers for `max_batch` images are allocated: EngineError when it has no room. On the host they grow
    // with the chunks: a service that draws one image at a time never pays for max_batch. BundleError when a head's
    // condition has no fixed width.
    Lane(Networks networks, const ModelInfo& model, std::int64_t max_batch);
    ~Lane();

    // Run a chunk; `latents` and `low_latents` then hold its results, and `pixels` (B, H, W, 3) where it is given.
    // Returns false when cancelled. EngineError when an engine fails or gives NaN: on the host after the step, on a GPU
    // at the end.
    //
    // On a GPU the host waits for nothing before the end without `go_on`; with it, for the step before the one it has
    // just queued, so that the device always has work. Whoever leaves early leaves an idle device.
    bool run(const Chunk& chunk, const Sampling& sampling, const GoOn& go_on, std::uint8_t* pixels);

    // Decode the preview of the step that `go_on` is told of. InputError when there is no decoder or no phase low,
    // EngineError when the decoder takes no latents of this size or fails.
    PreviewPixels preview();

    const std::vector<float>& latents() const { return latents_; }          // (B, C, h, w) of the last chunk
    const std::vector<float>& low_latents() const { return low_latents_; }  // (B, C, s, s)
    bool has_decoder() const { return networks_.decoder() != nullptr; }

    // Seconds that the engines ran since the lane was made; NaN where they are queued and nobody waits for them.
    double engine_seconds() const { return engine_seconds_; }

    // Another lane: shared weights, own buffers. Any thread may call it, also during `run`.
    std::unique_ptr<Lane> clone() const { return std::make_unique<Lane>(networks_.clone(), model_, max_batch_); }

    // Why segments run without graphs; empty while they do not.
    const std::string& without_graphs() const { return replays_.refusal(); }

private:
    // A phase with the engines that run it, and the chain of its head in the chunk under way.
    struct Stage {
        PhaseInfo phase;
        Engine *transformer, *head;
        std::int64_t width;  // of the condition that the transformer hands to the head
        Chain chain;
    };

    Queue& queue() const { return *networks_.queue; }
    void reserve(std::int64_t batch);
    bool generate(const Chunk& chunk, const Sampling& sampling, const GoOn& go_on, std::uint8_t* pixels);
    std::vector<Step> begin(const Chunk& chunk, const Sampling& sampling);
    void run_engine(Engine& engine, Places places);
    void check_fault();

    // The steps: steps.cpp.
    void queue_step(const Step& step, std::size_t index);
    void queue_transformer(const Step& step);
    void queue_mlp_head(const Step& step);
    void queue_dit_head(const Step& step);

    // The way home: results.cpp.
    void queue_latents(float* latents, const PhaseInfo& phase, std::size_t stage);
    void queue_decoding();
    void fetch_results(std::uint8_t* pixels);

    Networks networks_;
    ModelInfo model_;
    std::int64_t max_batch_;
    std::vector<Stage> stages_;
    std::optional<Buffers> buffers_;
    std::shared_ptr<float> staged_;  // two previews (batch, C, s, s) in the host's memory
    Replays replays_;                // after what its graphs were recorded from

    // Of the chunk under way.
    std::int64_t batch_ = 0;
    std::optional<NoiseSource> noise_;
    const float* reported_ = nullptr;  // the preview that `go_on` is looking at

    // Of the preview and of the last chunk, in the host's memory.
    std::shared_ptr<void> preview_block_;
    std::size_t preview_bytes_ = 0;
    std::vector<std::uint8_t> preview_pixels_;
    std::vector<float> latents_, low_latents_;
    double engine_seconds_ = 0;
};

}  // namespace himar::core
