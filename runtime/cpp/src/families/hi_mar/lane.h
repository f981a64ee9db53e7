// The family's loop over a queue of launches.
//
// The same loop runs on the host, where everything has run when a call returns, and resident on a GPU
// (docs/resident-loop.md), where the host uploads, queues and downloads at the end.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "families/hi_mar/buffers.h"
#include "families/hi_mar/chain.h"
#include "families/hi_mar/draws.h"
#include "families/hi_mar/held.h"
#include "families/hi_mar/sampling.h"
#include "families/queued_lane.h"
#include "queue/replays.h"

namespace himar::core::hi_mar {

class HiMarLane final : public QueuedLane {
public:
    // empty: context (K, W) of the empty prompt, null for a model of classes. BundleError when a head's condition has no
    // fixed width.
    HiMarLane(Networks networks, const HiMarModel& model, std::int64_t max_batch,
              std::shared_ptr<const std::vector<float>> empty = nullptr);
    ~HiMarLane() override;

    PreviewPixels preview(std::int64_t first, std::int64_t images) override;
    PreviewPixels so_far(std::int64_t first, std::int64_t images) override;
    std::unique_ptr<Lane> clone() const override {
        return std::make_unique<HiMarLane>(networks_.clone(), model_, max_batch_, empty_);
    }

    // Why segments run without graphs; empty while they do not.
    const std::string& without_graphs() const { return replays_.refusal(); }

private:
    // A phase with the engines that run it, and of its head in the chunk under way the chains, by their lengths.
    struct Stage {
        PhaseInfo phase;
        Engine *transformer, *head;
        std::int64_t width;  // of the condition that the transformer hands to the head
        std::map<std::int64_t, Chain> chains;
        const Chain* uploaded;  // the one that lies on the device
        Evaluations evaluations;
        std::unique_ptr<HeldModulations> held;  // made by the first chunk that holds the head's modulations

        bool holds() const { return held != nullptr && evaluations.modulation_interval > 1; }
    };

    // How a step's head goes down its chain.
    struct Descent {
        const Chain& chain;
        std::vector<std::int64_t> halves;  // that run at each k: Evaluations::halves
        std::vector<std::int64_t> made;    // of which modulations are made at each k: Evaluations::modulated; -1 of whole heads
        std::int64_t kept;                 // the order of forecasts where predictions are kept, else -1
        const float* prediction;           // what reverse steps take
    };

    void reserve(std::int64_t batch);
    void have_held(Stage& stage);
    bool generate(const Chunk& chunk, const Settings& settings, std::uint8_t* pixels) override;
    std::vector<Step> begin(const Chunk& chunk, const Sampling& sampling);
    void show(const Chunk& chunk);
    void encode_texts();
    void check_fault();

    // What an edit keeps and draws: editing.cpp.
    void keep(const Edit& edit);
    std::vector<float> encoded(const Edit& edit, const PhaseInfo& phase);

    // The steps: steps.cpp.
    void queue_step(const Step& step, std::size_t index);
    const Chain& have_chain(const Step& step);
    Descent descent(const Step& step);
    void queue_transformer(const Step& step);
    void queue_mlp_head(const Step& step);
    void queue_dit_head(const Step& step);
    void queue_dit_evaluation(const Step& step, std::int64_t halves, std::int64_t made);
    void queue_prediction(const Step& step, std::int64_t evaluated, std::int64_t rows);

    // The way home: results.cpp.
    void queue_latents(float* latents, const PhaseInfo& phase, std::size_t stage);
    void fetch_results(std::uint8_t* pixels);

    HiMarModel model_;
    std::int64_t max_batch_;
    std::shared_ptr<const std::vector<float>> empty_;
    std::vector<Stage> stages_;
    std::optional<Buffers> buffers_;
    std::shared_ptr<float> staged_;  // two of each in the host's memory: previews (batch, C, s, s), latents (batch, C, h, w)
    Replays replays_;                // after what its graphs were recorded from

    // Of the chunk under way.
    std::int64_t batch_ = 0;
    std::optional<NoiseSource> noise_;
    std::vector<std::vector<std::uint8_t>> drawn_;  // of an edit, of each stage (B, n): 1 at positions that it draws
    bool sees_guides_ = false;                      // phase high runs edit_transformer_
    Engine* edit_transformer_ = nullptr;
};

}  // namespace himar::core::hi_mar
