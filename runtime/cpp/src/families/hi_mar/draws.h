// Where a request's orders and noise come from: the kernels' own Philox, or draws that the caller gives (himar_draws).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "families/hi_mar/buffers.h"
#include "families/hi_mar/model.h"
#include "families/hi_mar/schedule.h"
#include "queue/queue.h"

namespace himar::core::hi_mar {

// A caller's draws. The pointers that it hands out are valid until the next call.
class GivenDraws {
public:
    explicit GivenDraws(const himar_draws& draws) : draws_(draws) {}

    // The place of every position in its image's order, (B, n) of images (B). InputError when the caller gives none, or
    // no permutation.
    std::vector<u32> ranks(std::size_t stage, const PhaseInfo& phase, const std::vector<u32>& images);

    // The noise (B, r, C) of reverse step k, or of the initial state at k = kInitial, at positions (B, r) of images (B).
    // InputError when the caller gives none, or values that are not finite.
    const std::vector<float>& noise(const Step& step, std::int64_t k, const std::vector<u32>& images,
                                    const std::vector<u32>& positions, std::int64_t channels);

    static constexpr std::int64_t kInitial = -1;

private:
    himar_draws draws_;
    std::vector<float> noise_;
};

// The draws of one chunk. Philox stays on the device; others travel there before every launch that uses them.
class NoiseSource {
public:
    // Uploads the images' origins.
    NoiseSource(Queue& queue, const Buffers& buffers, std::int64_t channels, const Chunk& chunk);

    // What the kernels take as `noise`; null draws on the device.
    const float* address() const { return given_ ? buffers_.noise : nullptr; }

    // Queue the places of all positions of a phase in their images' orders. drawn: of an edit (B, n), 1 at positions that
    // it draws, which come first.
    void order(std::size_t stage, const PhaseInfo& phase, const std::vector<std::uint8_t>* drawn);

    // Have the noise of a step's reverse step k, or its initial noise at k = GivenDraws::kInitial, ready where the
    // kernels look for it; k = 0 has none.
    void prepare(const Step& step, const PhaseInfo& phase, std::int64_t k);

private:
    const std::vector<u32>& positions_of(const Step& step, const PhaseInfo& phase);

    Queue& queue_;
    const Buffers& buffers_;
    std::int64_t channels_;
    std::optional<GivenDraws> given_;
    std::vector<ImageOrigin> origins_;
    std::vector<u32> images_, positions_;
    std::vector<u32> ranks_[2];  // of each stage, where draws are given
};

}  // namespace himar::core::hi_mar
