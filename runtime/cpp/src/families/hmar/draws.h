// Random numbers that the caller gives instead of a seed (himar_draws).
#pragma once

#include <cstdint>
#include <vector>

#include "families/hmar/sampling.h"
#include "queue/launches.h"

namespace himar::core::hmar {

// Uniforms (B, T) of a forward. InputError when the caller gives none, or one that is not in [0, 1).
std::vector<float> given_uniforms(const himar_draws& draws, const Forward& forward, const std::vector<u32>& images,
                                  std::int64_t cells, std::int64_t codes);

// Gumbel noise (B, T, V) of a forward. InputError when the caller gives none, or values that are not finite.
std::vector<float> given_gumbel(const himar_draws& draws, const Forward& forward, const std::vector<u32>& images,
                                std::int64_t cells, std::int64_t codes);

}  // namespace himar::core::hmar
