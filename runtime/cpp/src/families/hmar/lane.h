// The loop over scales, on a queue of launches: predict all cells of a scale, redraw the least confident, add its codes to
// the latent (docs/hmar-model.md §5).
//
// It is himar_runtime/families/hmar/loop.py over the kernels' text. On a GPU it would run resident; it has run on the host
// alone.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "families/hmar/buffers.h"
#include "families/hmar/sampling.h"
#include "families/queued_lane.h"

namespace himar::core::hmar {

class HmarLane final : public QueuedLane {
public:
    HmarLane(Networks networks, const HmarModel& model, std::shared_ptr<const Constants> constants,
             std::int64_t max_batch);
    ~HmarLane() override;

    PreviewPixels preview(std::int64_t first, std::int64_t images) override;
    PreviewPixels so_far(std::int64_t first, std::int64_t images) override { return preview(first, images); }
    std::unique_ptr<Lane> clone() const override {
        return std::make_unique<HmarLane>(networks_.clone(), model_, constants_, max_batch_);
    }

private:
    // A network with all scales in view, and what it keeps of them.
    struct VarStage {
        Engine* engine = nullptr;
        std::int64_t blocks = 0;
        std::optional<PastBuffers> past;
        bool turn = false;  // which of `past` holds the coarser scales
    };

    bool generate(const Chunk& chunk, const Settings& settings, std::uint8_t* pixels) override;
    void reserve(const Sampling& sampling);
    void begin(const Chunk& chunk, const Sampling& sampling, const std::vector<Forward>& forwards);
    void queue_conditions(std::int64_t halves);
    void fetch_results(std::uint8_t* pixels);
    void check_fault();

    // What an edit keeps and draws: editing.cpp.
    void upload_edited(const Edit& edit, const std::vector<Forward>& forwards);
    void queue_encoder(const Edit& edit);
    void queue_encoding(const Edit& edit);

    // One forward and what becomes of its logits: forwards.cpp.
    void queue_scale(const std::vector<Forward>& forwards, const Sampling& sampling, const Chunk& chunk);
    void queue_words(const Forward& forward);
    void queue_network(const Forward& forward);
    void queue_all_scales(const Forward& forward);
    void queue_past(VarStage& stage, const Forward& forward);
    bool queue_remask(const Forward& forward);
    void queue_draw(const Forward& forward, const Sampling& sampling, const Chunk& chunk);
    void queue_mix(const Forward& forward, const Sampling& sampling, const Chunk& chunk);
    void queue_contribution(std::size_t scale, const i64* codes, const float* embedding, float* latent);
    i64* codes_of(std::size_t scale) const { return buffers_->codes + batch_ * model_.scales.start(scale); }

    HmarModel model_;
    std::shared_ptr<const Constants> constants_;
    std::int64_t max_batch_;
    std::vector<std::string> stages_;
    std::optional<Buffers> buffers_;
    std::optional<SmoothBuffers> smooth_;
    VarStage var_trunk_, var_tail_;
    std::shared_ptr<float> staged_;  // two previews (batch, Cv, H, H) in the host's memory

    // Of the chunk under way.
    std::int64_t batch_ = 0;
    std::vector<u32> images_;
    std::vector<u32> redrawn_;    // of an edit, (B) of each forward: cells that the next step redraws
    const u8* masked_ = nullptr;  // cells that this step draws; null where it draws all
};

}  // namespace himar::core::hmar
