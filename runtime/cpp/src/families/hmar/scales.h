// The scales of a map of codes, coarse to fine, and the constant maps between a scale's grid and the finest one
// (himar_kernels/families/hmar/scales.py; docs/hmar-model.md §1, §3).
#pragma once

#include <cstdint>
#include <vector>

namespace himar::core::hmar {

struct Scales {
    static constexpr std::int64_t kMostSide = 256, kMostScales = 1024, kConvolutions = 4;

    std::vector<std::int64_t> sides;  // pn_s; the last is H, the side of the latent

    std::size_t count() const { return sides.size(); }  // S
    std::int64_t side() const { return sides.back(); }
    std::int64_t cells(std::size_t scale) const { return sides[scale] * sides[scale]; }  // T_s
    std::int64_t start(std::size_t scale) const;  // place of its first cell among all L
    std::int64_t tokens() const { return start(count()); }  // L

    // s/(S-1).
    double ratio(std::size_t scale) const { return static_cast<double>(scale) / static_cast<double>(count() - 1); }

    // The convolution that Φ takes at a scale: the one of four at 1/12, 13/36, 23/36 and 11/12 nearest to its ratio; ties go
    // up.
    std::uint32_t convolution(std::size_t scale) const;

    std::vector<float> down(std::size_t scale) const;  // A, (pn_s, H): averages a grid (H, H) down
    std::vector<float> up(std::size_t scale) const;    // U, (H, pn_s): interpolates a grid (pn_s, pn_s) up
};

}  // namespace himar::core::hmar
