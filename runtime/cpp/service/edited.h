// What the requests for edits begin with: images, and the parts of them that are drawn anew.
#pragma once

#include <cstdint>
#include <vector>

#include "himar/himar.hpp"

namespace himar::service {

struct Edited {
    std::int64_t count, side;                 // B, P
    std::vector<std::uint8_t> images, masks;  // (B, P, P, 3), RGB; (B, P, P), not 0 where pixels are drawn anew
    EditOptions how{};

    View<std::uint8_t> images_view() const { return {images.data(), {count, side, side, 3}}; }
    View<std::uint8_t> masks_view() const { return {masks.data(), {count, side, side, 1}}; }

    // Add the images of another, drawn in the same way, behind these.
    void append(const Edited& other) {
        count += other.count;
        images.insert(images.end(), other.images.begin(), other.images.end());
        masks.insert(masks.end(), other.masks.begin(), other.masks.end());
    }
};

}  // namespace himar::service
