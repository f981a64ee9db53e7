// The image and the mask of an edit from files (himar_runtime/edit_files.py), and a canvas to place a smaller image on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "picture.h"

// Pixels to draw anew, (height, width), 1 or 0.
struct MaskPicture {
    std::int64_t width = 0, height = 0;
    std::vector<std::uint8_t> pixels;
};

// Where a smaller image lies on a canvas; without a place in the middle.
struct Placement {
    bool centred = true;
    std::int64_t left = 0, top = 0;
};

// Read a mask: 1 where the grey value is 128 or more. std::runtime_error as read_picture, and where more than a tenth of
// the pixels are neither nearly black (at most 32) nor nearly white (at least 223).
MaskPicture read_mask(const std::filesystem::path& path);

// Marks of values (count), from 0 to 255, where they are 128 or more; std::runtime_error that `name` is no mask, of whose
// pixels too many are neither `otherwise`.
std::vector<std::uint8_t> as_mask(const std::vector<std::uint8_t>& values, const std::string& name, const std::string& otherwise);

// The grey value of RGB, as Pillow rounds it.
std::uint8_t grey_of(const std::uint8_t* rgb);

// Put an image on a black canvas (side, side), and mark all around it and what `mask`, of the image's size, marks of it.
// std::runtime_error where the mask has another size, or the image does not lie wholly on the canvas.
void place_on_canvas(Picture& image, std::optional<MaskPicture>& mask, std::int64_t side, const Placement& place);
