// Images of which a part is drawn anew: which cells a mask touches, what fills the hole, what is kept
// (himar_kernels/arithmetic/editing.py, docs/editing.md). No family owns them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace himar::core {

// The component that reads the images of an edit.
constexpr const char* kEncoder = "vae_encoder";

// Images and masks in the caller's memory, as long as a call lasts.
struct Edit {
    const std::uint8_t* images;  // (B, P, P, 3), RGB
    const std::uint8_t* masks;   // (B, P, P), or (P, P) where one serves all: not 0 at pixels that are drawn anew
    std::int64_t count, side;    // B, P
    bool one_mask;
    std::int64_t dilation = 0;  // rings of cells around the masks that are drawn too, where a family has that option
    std::int64_t feather = 0;   // pixels inside the masks' borders over which what is drawn is blended in
    std::vector<std::int64_t> order{};  // which of the caller's images the B are; empty for the first ones

    const std::uint8_t* image(std::int64_t place) const { return images + at(place) * 3 * side * side; }
    const std::uint8_t* mask(std::int64_t place) const { return masks + (one_mask ? 0 : at(place) * side * side); }

    // The images at these places with their masks, and some that follow each other.
    Edit some(const std::vector<std::int64_t>& places) const;
    Edit part(std::int64_t first, std::int64_t images_of_it) const;

    // InputError, in Python's sentences, for a mask that is empty or full, and for rings below 0 or above the side.
    void check_masks() const;
    void check_rings() const;

    // An image with a neutral hole (P, P, 3): the mean colour of the pixels outside it, rounded half up, so that nothing
    // under the mask is seen; a middle grey where nothing is outside.
    std::vector<std::uint8_t> filled(std::int64_t place) const;

    // Write what an encoder takes of such an image: values (3, P, P) in [-1, 1].
    void write_values(std::int64_t place, float* values) const;

    // Put the images as they were given over what was drawn (B, P, P, 3), but for the pixels inside the masks. With a
    // feather of F pixels, those in the w-th ring from a mask's border, w ≤ F, are w parts of F+1 what was drawn and the
    // rest what was given, rounded half up.
    void paste(std::uint8_t* drawn) const;

    // SHA-256 of an image's pixels, and of its mask as 0 and 1, a byte per pixel.
    std::string image_hash(std::int64_t place) const;
    std::string mask_hash(std::int64_t place) const;

private:
    std::int64_t at(std::int64_t place) const { return order.empty() ? place : order[static_cast<std::size_t>(place)]; }
};

// Cells (side, side), 1 where any part of a cell is marked in (whole, whole), whole >= side. Cell i of a side covers rows
// floor(i·whole/side) … ceil((i+1)·whole/side) - 1.
std::vector<std::uint8_t> touched_cells(const std::uint8_t* marked, std::int64_t whole, std::int64_t side);

// Cells (side, side) with the ring of cells around them, at corners too.
std::vector<std::uint8_t> widened(const std::vector<std::uint8_t>& cells, std::int64_t side);

}  // namespace himar::core
