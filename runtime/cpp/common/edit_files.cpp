#include "edit_files.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace {

constexpr std::uint8_t kThreshold = 128, kBlack = 32, kWhite = 223;
constexpr double kMostGrey = 0.1;  // share between black and white: edges may be soft, a photograph is no mask

std::string size_of(std::int64_t width, std::int64_t height) { return std::to_string(width) + " × " + std::to_string(height); }

}  // namespace

std::uint8_t grey_of(const std::uint8_t* rgb) {
    return static_cast<std::uint8_t>((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
}

std::vector<std::uint8_t> as_mask(const std::vector<std::uint8_t>& values, const std::string& name, const std::string& otherwise) {
    std::vector<std::uint8_t> marks;
    marks.reserve(values.size());
    std::size_t between = 0;
    for (const std::uint8_t value : values) {
        between += value > kBlack && value < kWhite;
        marks.push_back(value >= kThreshold);
    }
    const double share = static_cast<double>(between) / static_cast<double>(values.size());
    if (share > kMostGrey)
        throw std::runtime_error(name + " is no mask: " + std::to_string(std::lrint(100 * share)) +
                                 "% of its pixels are neither " + otherwise + ".");
    return marks;
}

MaskPicture read_mask(const std::filesystem::path& path) {
    const Picture picture = read_picture(path, "mask");
    std::vector<std::uint8_t> greys;
    greys.reserve(picture.pixels.size() / 3);
    for (std::size_t i = 0; i < picture.pixels.size(); i += 3) greys.push_back(grey_of(picture.pixels.data() + i));
    return {picture.width, picture.height,
            as_mask(greys, path.string(), "black nor white; paint white what is to be drawn anew and black what is to stay")};
}

void place_on_canvas(Picture& image, std::optional<MaskPicture>& mask, std::int64_t side, const Placement& place) {
    const std::int64_t width = image.width, height = image.height;
    // Halves are rounded down, as Python rounds them.
    const auto half = [](std::int64_t room) { return (room - (room % 2 != 0 && room < 0 ? 1 : 0)) / 2; };
    const std::int64_t left = place.centred ? half(side - width) : place.left;
    const std::int64_t top = place.centred ? half(side - height) : place.top;
    if (left < 0 || left > side - width || top < 0 || top > side - height)
        throw std::runtime_error("an image of " + size_of(width, height) + " pixels placed at " + std::to_string(left) + "," +
                                 std::to_string(top) + " is not wholly on the canvas of " + size_of(side, side) +
                                 "; place it elsewhere or make it smaller.");
    if (mask && (mask->width != width || mask->height != height))
        throw std::runtime_error("the mask has " + size_of(mask->width, mask->height) + " pixels, but the image has " +
                                 size_of(width, height) + "; give a mask of the image's size, or none.");
    Picture canvas{side, side, std::vector<std::uint8_t>(static_cast<std::size_t>(3 * side * side))};
    MaskPicture border{side, side, std::vector<std::uint8_t>(static_cast<std::size_t>(side * side), 1)};
    for (std::int64_t row = 0; row < height; ++row) {
        const std::int64_t at = (top + row) * side + left;
        std::copy_n(image.pixels.begin() + 3 * row * width, 3 * width, canvas.pixels.begin() + 3 * at);
        if (mask)
            std::copy_n(mask->pixels.begin() + row * width, width, border.pixels.begin() + at);
        else
            std::fill_n(border.pixels.begin() + at, width, std::uint8_t{0});
    }
    image = std::move(canvas);
    mask = std::move(border);
}
