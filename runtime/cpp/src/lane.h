// One lane on the host: engines, buffers and the two-phase loop over them, one request at a time.
#pragma once

#include <cstdint>
#include <memory>

#include "buffers.h"
#include "chain.h"
#include "networks.h"
#include "runner.h"

namespace himar::core {

class Lane final : public Runner {
public:
    // BundleError when a head's condition has no fixed width.
    Lane(Networks networks, const ModelInfo& model);

    bool run(const Chunk& chunk, const Sampling& sampling, const GoOn& go_on, u8* pixels) override;
    const float* latents() const override { return buffers_->latents; }
    const float* low_latents() const override { return buffers_->low_latents; }
    bool has_decoder() const override { return networks_.vae_decoder != nullptr; }
    double engine_seconds() const override { return engine_seconds_; }
    std::unique_ptr<Runner> clone() const override { return std::make_unique<Lane>(networks_.clone(), model_); }

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
