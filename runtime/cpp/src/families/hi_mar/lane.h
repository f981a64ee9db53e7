// The family's loop over a queue of launches.
//
// The same loop runs on the host, where everything has run when a call returns, and resident on a GPU
// (docs/resident-loop.md), where the host uploads, queues and downloads at the end.
#pragma once

#include <cstdint>
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

namespace himar::core::hi_mar {

class HiMarLane final : public Lane {
public:
    // BundleError when a head's condition has no fixed width.
    HiMarLane(Networks networks, const HiMarModel& model, std::int64_t max_batch);
    ~HiMarLane() override;

    bool run(const Chunk& chunk, const Settings& settings, const ShouldContinue& should_continue,
             std::uint8_t* pixels) override;
    PreviewPixels preview() override;
    const std::vector<float>& latents() const override { return latents_; }
    const std::vector<float>& preview_latents() const override { return preview_latents_; }
    bool has_decoder() const override { return networks_.decoder() != nullptr; }
    double engine_seconds() const override { return engine_seconds_; }
    std::unique_ptr<Lane> clone() const override {
        return std::make_unique<HiMarLane>(networks_.clone(), model_, max_batch_);
    }

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
    bool generate(const Chunk& chunk, const Sampling& sampling, const ShouldContinue& should_continue,
                  std::uint8_t* pixels);
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
    HiMarModel model_;
    std::int64_t max_batch_;
    std::vector<Stage> stages_;
    std::optional<Buffers> buffers_;
    std::shared_ptr<float> staged_;  // two previews (batch, C, s, s) in the host's memory
    Replays replays_;                // after what its graphs were recorded from

    // Of the chunk under way.
    std::int64_t batch_ = 0;
    std::optional<NoiseSource> noise_;
    const float* reported_ = nullptr;  // the preview that `should_continue` is looking at

    // Of the preview and of the last chunk, in the host's memory.
    std::shared_ptr<void> preview_block_;
    std::size_t preview_bytes_ = 0;
    std::vector<std::uint8_t> preview_pixels_;
    std::vector<float> latents_, preview_latents_;
    double engine_seconds_ = 0;
};

}  // namespace himar::core::hi_mar
