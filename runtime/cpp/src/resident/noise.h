// Where a chunk's orders and noise come from on the device: the kernels' own Philox, or draws that the host gives.
#pragma once

#include <optional>
#include <vector>

#include "../buffers.h"
#include "../draws.h"
#include "../runner.h"
#include "device.h"
#include "tables.h"

namespace himar::core {

// Philox stays on the device; others travel there before every launch that uses them.
class NoiseSource {
public:
    NoiseSource(ResidentDevice& device, const Buffers& buffers, const Tables& tables, const ModelInfo& model,
                const Chunk& chunk);

    // What the kernels take as `noise`; null draws on the device.
    const float* address() const { return given_ ? tables_.noise : nullptr; }

    // Queue the places of all positions of a phase in their images' orders, (B, n) at `ranks` on the device.
    void order(himar_phase phase, std::int64_t n, u32* ranks);

    // Have the initial noise of a step, or the noise of its reverse step k, ready where the kernels look for it.
    void initial(const Step& step);
    void at(const Step& step, std::int64_t k);  // k = 0 has none

private:
    void send(const Step& step, std::int64_t k);
    const std::vector<u32>& positions_of(const Step& step);

    ResidentDevice& device_;
    const Buffers& buffers_;
    const Tables& tables_;
    const ModelInfo& model_;
    std::optional<GivenDraws> given_;
    std::vector<u32> images_, low_ranks_, positions_;
};

}  // namespace himar::core
