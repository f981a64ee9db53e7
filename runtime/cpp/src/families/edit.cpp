#include "families/edit.h"

#include <algorithm>
#include <numeric>
#include <string_view>
#include <utility>

#include "bundle/sha256.h"
#include "error.h"

namespace himar::core {
namespace {

std::string hash_of(const std::uint8_t* bytes, std::int64_t count) {
    return sha256(std::string_view(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(count)));
}

// As himar_kernels.to_values: both steps round in float.
float value_of(std::uint8_t pixel) { return static_cast<float>(pixel) * static_cast<float>(2.0 / 255) - 1.0f; }

// How many parts of feather + 1 of each pixel (side, side) are what was drawn: 0 outside the mask, and inside as many as
// its ring counts from the border.
std::vector<std::int64_t> blend_parts(const std::uint8_t* mask, std::int64_t side, std::int64_t feather) {
    std::vector<std::uint8_t> outside(static_cast<std::size_t>(side * side));
    std::transform(mask, mask + side * side, outside.begin(), [](std::uint8_t marked) { return marked == 0 ? 1 : 0; });
    std::vector<std::int64_t> parts(outside.size());
    for (std::int64_t ring = 0; ring <= feather; ++ring) {
        if (ring > 0) outside = widened(outside, side);
        for (std::size_t i = 0; i < parts.size(); ++i) parts[i] += outside[i] == 0;
    }
    return parts;
}

}  // namespace

void Edit::check_masks() const {
    for (std::int64_t place = 0; place < (one_mask ? 1 : count); ++place) {
        const std::uint8_t *const first = mask(place), *const end = first + side * side;
        const auto drawn = (side * side) - std::count(first, end, 0);
        const std::string start = "mask " + std::to_string(place);
        if (drawn == 0) throw InputError(start + " is empty, so there is nothing to draw; mark the pixels to change.");
        if (drawn == side * side)
            throw InputError(start + " covers the whole image, so nothing is kept; generate an image instead.");
    }
}

void Edit::check_rings() const {
    for (const auto& [name, value] : {std::pair("dilation", dilation), std::pair("feather", feather)})
        if (value < 0 || value > side)
            throw InputError(std::string(name) + " is " + std::to_string(value) + "; it must be a whole number from 0 to " +
                             std::to_string(side) + ", the side of the images.");
}

Edit Edit::some(const std::vector<std::int64_t>& places) const {
    Edit chosen = *this;
    chosen.count = static_cast<std::int64_t>(places.size());
    chosen.order.clear();
    for (const std::int64_t place : places) chosen.order.push_back(at(place));
    return chosen;
}

Edit Edit::part(std::int64_t first, std::int64_t images_of_it) const {
    std::vector<std::int64_t> places(static_cast<std::size_t>(images_of_it));
    std::iota(places.begin(), places.end(), first);
    return some(places);
}

std::vector<std::uint8_t> Edit::filled(std::int64_t place) const {
    const std::int64_t area = side * side;
    const std::uint8_t* const hole = mask(place);
    std::vector<std::uint8_t> pixels(image(place), image(place) + 3 * area);
    const std::int64_t kept = std::count(hole, hole + area, 0);
    for (std::int64_t color = 0; color < 3; ++color) {
        std::int64_t sum = 0;
        for (std::int64_t i = 0; i < area; ++i) sum += hole[i] == 0 ? pixels[static_cast<std::size_t>(3 * i + color)] : 0;
        const auto neutral = static_cast<std::uint8_t>(kept == 0 ? 128 : (2 * sum + kept) / (2 * kept));
        for (std::int64_t i = 0; i < area; ++i)
            if (hole[i] != 0) pixels[static_cast<std::size_t>(3 * i + color)] = neutral;
    }
    return pixels;
}

void Edit::write_values(std::int64_t place, float* values) const {
    const std::vector<std::uint8_t> pixels = filled(place);
    for (std::int64_t color = 0; color < 3; ++color)
        for (std::int64_t i = 0; i < side * side; ++i) *values++ = value_of(pixels[static_cast<std::size_t>(3 * i + color)]);
}

void Edit::paste(std::uint8_t* drawn) const {
    const std::int64_t area = side * side, whole = feather + 1;
    for (std::int64_t place = 0; place < count; ++place, drawn += 3 * area) {
        const std::uint8_t* const pixels = image(place);
        const std::vector<std::int64_t> parts = blend_parts(mask(place), side, feather);
        for (std::int64_t i = 0; i < 3 * area; ++i) {
            const std::int64_t part = parts[static_cast<std::size_t>(i / 3)];
            drawn[i] = static_cast<std::uint8_t>((part * drawn[i] + (whole - part) * pixels[i] + whole / 2) / whole);
        }
    }
}

std::string Edit::image_hash(std::int64_t place) const { return hash_of(image(place), 3 * side * side); }

std::string Edit::mask_hash(std::int64_t place) const {
    std::vector<std::uint8_t> bits(mask(place), mask(place) + side * side);
    for (std::uint8_t& bit : bits) bit = bit != 0;
    return hash_of(bits.data(), side * side);
}

std::vector<std::uint8_t> touched_cells(const std::uint8_t* marked, std::int64_t whole, std::int64_t side) {
    std::vector<std::uint8_t> cells(static_cast<std::size_t>(side * side));
    const auto first = [&](std::int64_t cell) { return cell * whole / side; };
    const auto end = [&](std::int64_t cell) { return ((cell + 1) * whole + side - 1) / side; };
    auto cell = cells.begin();
    for (std::int64_t row = 0; row < side; ++row)
        for (std::int64_t column = 0; column < side; ++column, ++cell)
            for (std::int64_t y = first(row); y < end(row) && *cell == 0; ++y)
                *cell = std::any_of(marked + y * whole + first(column), marked + y * whole + end(column),
                                    [](std::uint8_t each) { return each != 0; });
    return cells;
}

std::vector<std::uint8_t> widened(const std::vector<std::uint8_t>& cells, std::int64_t side) {
    std::vector<std::uint8_t> wide(cells.size());
    const auto around = [&](std::int64_t cell) {
        return std::pair(std::max<std::int64_t>(cell - 1, 0), std::min(cell + 1, side - 1));
    };
    for (std::int64_t row = 0; row < side; ++row)
        for (std::int64_t column = 0; column < side; ++column) {
            if (cells[static_cast<std::size_t>(row * side + column)] == 0) continue;
            const auto [top, bottom] = around(row);
            const auto [left, right] = around(column);
            for (std::int64_t y = top; y <= bottom; ++y)
                std::fill(wide.begin() + y * side + left, wide.begin() + y * side + right + 1, std::uint8_t{1});
        }
    return wide;
}

}  // namespace himar::core
