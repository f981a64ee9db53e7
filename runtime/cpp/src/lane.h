// One lane on the host: engines, buffers and the two-phase loop over them, one request at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "buffers.h"
#include "chain.h"
#include "draws.h"
#include "networks.h"
#include "runner.h"

namespace himar::core {

class Lane final : public Runner {
public:
    // BundleError when a head's condition has no fixed width.
    Lane(Networks networks, const ModelInfo& model);

    bool run(const Chunk& chunk, const Sampling& sampling, const GoOn& go_on, u8* pixels) override;
    PreviewPixels preview() override;
    const float* latents() const override { return buffers_->latents; }
    const float* low_latents() const override { return buffers_->low_latents; }
    bool has_decoder() const override { return networks_.vae_decoder != nullptr; }
    double engine_seconds() const override { return engine_seconds_; }
    std::unique_ptr<Runner> clone() const override { return std::make_unique<Lane>(networks_.clone(), model_); }

private:
    void reserve(std::int64_t batch);
    void begin(const Chunk& chunk);
    const float* noise(const Step& step, std::int64_t k, const u32* positions, std::int64_t r);
    void set_state(const Step& step, const Chain& chain, std::uint64_t seed, double temperature);
    void low_step(const Step& step, const Chain& chain);
    void high_step(const Step& step, const Chain& chain);
    void write_low_latents();
    void decode(u8* pixels);
    void run_engine(Engine& engine, Places places);

    Networks networks_;
    ModelInfo model_;
    Widths widths_;
    std::unique_ptr<Buffers> buffers_;
    std::int64_t batch_ = 0;  // B of the chunk under way
    std::optional<GivenDraws> draws_;   // of the chunk under way, if not its seed's
    std::vector<u32> high_positions_;   // (B, N), what draws are asked for in phase high
    std::vector<float> preview_image_;  // (B ≤ kDecodeBatch, 3, side, side)
    std::vector<u8> preview_pixels_;    // (B, side, side, 3)
    double engine_seconds_ = 0;
};

}  // namespace himar::core
