// One lane whose loop is resident on a device (docs/resident-loop.md): the host uploads, queues, and downloads at the end.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../buffers.h"
#include "../chain.h"
#include "../networks.h"
#include "../runner.h"
#include "device.h"
#include "noise.h"
#include "replays.h"
#include "tables.h"

namespace himar::core {

class ResidentLane final : public Runner {
public:
    // Allocate everything for `batch` images on the networks' lane. EngineError when the device has no room.
    ResidentLane(Networks networks, const ModelInfo& model, std::int64_t batch);
    ~ResidentLane() override;

    // Without `go_on` the host waits for nothing before the end; with it, for the step before the one it has just
    // queued, so that the device always has work. Whoever leaves early leaves an idle device.
    bool run(const Chunk& chunk, const Sampling& sampling, const GoOn& go_on, u8* pixels) override;

    PreviewPixels preview() override;
    const float* latents() const override { return latents_.data(); }
    const float* low_latents() const override { return low_latents_.data(); }
    bool has_decoder() const override { return networks_.vae_decoder != nullptr; }
    double engine_seconds() const override;
    std::unique_ptr<Runner> clone() const override;

    // Why segments run without graphs; empty while they do not.
    const std::string& without_graphs() const { return replays_.refusal(); }

private:
    bool generate(const Chunk& chunk, const Sampling& sampling, const GoOn& go_on, u8* pixels);
    std::vector<Step> begin(const Chunk& chunk, const Sampling& sampling);
    void queue_step(const Step& step, std::size_t index);
    void low_step(const Step& step);
    void high_step(const Step& step);
    void queue_latents();
    void queue_decoding();
    void fetch_results(u8* pixels);

    Networks networks_;
    ModelInfo model_;
    std::int64_t most_;  // images that the buffers hold
    Widths widths_;
    Buffers buffers_;
    Tables tables_;
    std::shared_ptr<float> staged_;  // two previews (most, C, s, s) in the host's memory
    Replays replays_;                // last: graphs go before what they were recorded from

    // Of the chunk under way.
    std::int64_t batch_ = 0;
    std::optional<NoiseSource> noise_;
    Chain low_, high_;                 // of each phase's head
    const float* reported_ = nullptr;  // low latents that `go_on` is looking at

    // Of the preview and of the last chunk, in the host's memory.
    std::shared_ptr<void> preview_block_;
    std::size_t preview_bytes_ = 0;
    std::vector<u8> preview_pixels_;
    std::vector<float> latents_, low_latents_;
};

}  // namespace himar::core
