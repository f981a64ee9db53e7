// Pictures and masks for tests of edits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "himar/himar.hpp"

// Four images that differ everywhere, (4, side, side, 3), and a mask for each.
struct EditPictures {
    std::int64_t side;
    std::vector<std::uint8_t> images, masks;

    // drawn(kind, row, column): whether the mask of this kind draws the pixel.
    template <typename Drawn>
    EditPictures(std::int64_t the_side, const Drawn& drawn) : side(the_side) {
        images.resize(static_cast<std::size_t>(4 * 3 * side * side));
        std::uint32_t state = 1;
        for (std::uint8_t& value : images) value = static_cast<std::uint8_t>((state = state * 1664525 + 1013904223) >> 24);
        for (int kind = 0; kind < 4; ++kind)
            for (std::int64_t row = 0; row < side; ++row)
                for (std::int64_t column = 0; column < side; ++column)
                    masks.push_back(drawn(kind, row, column) ? 200 : 0);
    }

    himar::View<std::uint8_t> image_view(std::int64_t count = 4) const { return {images.data(), {count, side, side, 3}}; }
    himar::View<std::uint8_t> mask_view(std::int64_t count = 4) const { return {masks.data(), {count, side, side, 1}}; }
};
