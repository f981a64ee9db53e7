// Editing without training: which positions of each phase are drawn anew, and in which order
// (himar_kernels/families/hi_mar/editing.py, docs/editing.md).
//
// A position is known if no pixel of its cell is inside the mask. Known ones are as if steps before the edit's had revealed
// them, so orders, index lists and the re-noising of a DiT head are those of a whole image. A known low position has no
// pivot: phase high sees a learned placeholder there, as in training.
#pragma once

#include <cstdint>
#include <vector>

#include "families/edit.h"
#include "families/hi_mar/model.h"
#include "families/hi_mar/schedule.h"

namespace himar::core::hi_mar {

// The transformer that runs phase high where low positions are known: it takes `guides` (R, S) besides.
constexpr const char* kEditTransformer = "transformer_high_edit";

// Of every image of an edit (B, n), 1 at positions of a phase with this side that are drawn anew: those of whose cells any
// pixel is inside the mask, and as many rings of cells around them as the edit's dilation says.
std::vector<std::uint8_t> drawn_positions(const Edit& edit, std::int64_t side);

// How many low and how many high positions of one of the images are drawn. Images with other counts have other steps, so
// they cannot run together.
DrawnCounts drawn_counts(const Edit& edit, std::int64_t place, const HiMarModel& model);

// Change places (B, n) of positions in their images' orders: those that are drawn come first and the known ones after them,
// else as they were.
void move_drawn_first(std::vector<u32>& ranks, const std::vector<std::uint8_t>& drawn, std::int64_t positions);

// What phase high sees at low positions (halves·B, S), of drawn (B, S): rows of a table, which holds the projected pivots
// of these rows, flattened, and after them S placeholders.
std::vector<i64> guide_rows(const std::vector<std::uint8_t>& drawn, std::int64_t positions, std::int64_t halves);

// Latents (count, C, n) as tokens (count, n, C) times the VAE scale, and 0 at positions that are drawn (count, n).
std::vector<float> known_tokens(const std::vector<float>& latents, const std::uint8_t* drawn, std::int64_t count,
                                std::int64_t positions, std::int64_t channels, double scale);

}  // namespace himar::core::hi_mar
