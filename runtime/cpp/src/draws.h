// Orders and noise that a caller gives in place of the seed's: himar_draws, checked.
#pragma once

#include <cstdint>
#include <vector>

#include "himar/himar.h"
#include "kernels.h"
#include "schedule.h"

namespace himar::core {

// One request's. The pointers that it hands out are valid until the next call.
class GivenDraws {
public:
    // InputError for a struct_size of another header or functions that are missing.
    explicit GivenDraws(const himar_draws& draws);

    // Write the place of every position in its image's order: ranks (B, n) of images (B). InputError when the caller
    // gives none, or no permutation.
    void ranks(u32* ranks, himar_phase phase, const u32* images, std::int64_t batch, std::int64_t n);

    // The noise (B, r, C) of reverse step k, or of the chain's start at k = kInitialNoise, at positions (B, r) of images
    // (B). InputError when the caller gives none, or values that are not finite.
    const float* noise(const Step& step, std::int64_t k, const u32* images, const u32* positions, std::int64_t batch,
                       std::int64_t r, std::int64_t channels);

    static constexpr std::int64_t kInitialNoise = -1;

private:
    himar_draws draws_;
    std::vector<std::int64_t> order_;
    std::vector<float> noise_;
};

}  // namespace himar::core
