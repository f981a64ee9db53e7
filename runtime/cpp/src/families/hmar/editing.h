// Editing without training: which cells of each scale are drawn anew (himar_kernels/families/hmar/editing.py,
// docs/editing.md). The image's codes are kept at all others, and the loop draws around them.
#pragma once

#include <cstdint>
#include <vector>

#include "families/edit.h"
#include "families/hmar/scales.h"

namespace himar::core::hmar {

// Of one image, (L) in order of scales: 1 at cells that are drawn. A latent cell is touched if any of its pixels is inside
// the mask, a scale's cell if any latent cell that it averages is; at fine scales, 2·pn_s > H, the ring of cells around
// these is drawn too, since the encoder looks beyond a cell.
std::vector<std::uint8_t> edit_cells(const std::uint8_t* mask, std::int64_t image_side, const Scales& scales);

// How many of an image's edited cells a count of a scale's `cells` stands for.
inline std::int64_t edited_share(std::int64_t count, std::int64_t cells, std::int64_t edited) {
    return count * edited / cells;
}

}  // namespace himar::core::hmar
