// Chunks of images of one seed.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "families/family.h"

// The images of these labels that a seed makes from index `first` on.
inline himar::core::Chunk chunk_of(std::vector<std::int64_t> labels, std::uint64_t first, std::uint64_t seed,
                                   const himar_draws* draws = nullptr, const himar::core::Edit* edit = nullptr,
                                   himar::core::Texts texts = {}) {
    std::vector<himar::ImageOrigin> origins;
    for (std::size_t i = 0; i < labels.size(); ++i) origins.push_back({seed, static_cast<himar::u32>(first + i), 0});
    return {std::move(labels), std::move(origins), draws, edit, texts};
}
