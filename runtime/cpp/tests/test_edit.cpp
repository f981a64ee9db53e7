// What all families do with the images and masks of an edit: cells, the hole, what is pasted, hashes, refusals.
#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "bundle/sha256.h"
#include "bundles.h"
#include "error.h"
#include "families/edit.h"
#include "families/hmar/editing.h"

using namespace himar::core;

namespace {

using Bytes = std::vector<std::uint8_t>;

// (side, side) with these cells marked.
Bytes marked(std::int64_t side, const std::vector<std::pair<int, int>>& cells) {
    Bytes made(static_cast<std::size_t>(side * side));
    for (const auto& [row, column] : cells) made[static_cast<std::size_t>(row * side + column)] = 255;
    return made;
}

std::int64_t count_of(const Bytes& cells) { return std::count(cells.begin(), cells.end(), 1); }

}  // namespace

TEST_SUITE_BEGIN("edit");

TEST_CASE("a cell is touched by any pixel that it covers, and neighbours share a row where sides do not divide") {
    const Bytes pixel = marked(12, {{5, 6}});
    CHECK(touched_cells(pixel.data(), 12, 3) == Bytes{0, 0, 0, 0, 1, 0, 0, 0, 0});
    CHECK(touched_cells(pixel.data(), 12, 1) == Bytes{1});
    const Bytes middle = marked(3, {{1, 0}});  // of rows 0 and 1 of two
    CHECK(touched_cells(middle.data(), 3, 2) == Bytes{1, 0, 1, 0});
}

TEST_CASE("a ring is all neighbours and stays on the grid") {
    Bytes cells = marked(4, {{0, 0}});
    cells[0] = 1;
    CHECK(widened(cells, 4) == Bytes{1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
    CHECK(widened(Bytes(9), 3) == Bytes(9));
    CHECK(widened(Bytes{0, 0, 0, 0, 1, 0, 0, 0, 0}, 3) == Bytes(9, 1));
}

TEST_CASE("the hole is filled with the mean colour of the rest, rounded half up, and what is in it changes nothing") {
    Bytes image = {10, 0, 255, 11, 1, 255, 7, 7, 7, 200, 9, 3};
    const Bytes mask = {0, 0, 9, 9};
    const Edit edit{image.data(), mask.data(), 1, 2, false};
    std::vector<float> values(12), others(12);
    edit.write_values(0, values.data());
    const auto pixel = [&](std::size_t color, std::size_t place) { return (values[color * 4 + place] + 1) * 127.5f; };
    for (const std::size_t place : {2u, 3u}) {
        CHECK(pixel(0, place) == doctest::Approx(11));  // 10.5 and 0.5
        CHECK(pixel(1, place) == doctest::Approx(1));
        CHECK(values[8 + place] == 1);
    }
    CHECK(pixel(0, 0) == doctest::Approx(10));
    std::fill(image.begin() + 6, image.end(), std::uint8_t{99});
    edit.write_values(0, others.data());
    CHECK(values == others);
}

TEST_CASE("pixels outside the mask are pasted, and parts and shared masks are the right ones") {
    const Bytes images = {1, 2, 3, 4, 5, 6}, masks = {0, 1};  // of one pixel each
    const Edit both{images.data(), masks.data(), 2, 1, false};
    Bytes drawn(6, 77);
    both.paste(drawn.data());
    CHECK(drawn == Bytes{1, 2, 3, 77, 77, 77});
    Bytes last(3, 77);
    both.part(1, 1).paste(last.data());
    CHECK(last == Bytes(3, 77));
    const Edit shared = Edit{images.data(), masks.data(), 2, 1, true}.part(1, 1);
    shared.paste(last.data());
    CHECK(last == Bytes{4, 5, 6});
}

TEST_CASE("hashes are of the pixels, and of the mask as 0 and 1") {
    const Bytes images = {1, 2, 3, 4, 5, 6}, masks = {0, 255};
    const Edit edit{images.data(), masks.data(), 2, 1, false};
    CHECK(edit.image_hash(1) == sha256(std::string("\x04\x05\x06", 3)));
    CHECK(edit.mask_hash(1) == sha256(std::string("\x01", 1)));
    CHECK(edit.mask_hash(0) == sha256(std::string("\x00", 1)));
}

TEST_CASE("masks that are empty or full are refused") {
    const Bytes images(24), masks = {0, 1, 0, 0, 0, 0, 0, 0}, full(4, 2);
    CHECK(sentence_of<InputError>([&] { Edit{images.data(), masks.data(), 2, 2, false}.check_masks(); }) ==
          "mask 1 is empty, so there is nothing to draw; mark the pixels to change.");
    CHECK(sentence_of<InputError>([&] { Edit{images.data(), full.data(), 2, 2, true}.check_masks(); }) ==
          "mask 0 covers the whole image, so nothing is kept; generate an image instead.");
    Edit{images.data(), masks.data(), 2, 2, true}.check_masks();
}

TEST_CASE("an edit draws a ring more at the scales whose cells are small") {
    const hmar::Scales scales{{1, 2, 4, 8}};
    const Bytes cells = hmar::edit_cells(marked(128, {{0, 0}}).data(), 128, scales);
    REQUIRE(cells.size() == 85);
    const auto of = [&](std::size_t scale) {
        return count_of({cells.begin() + scales.start(scale), cells.begin() + scales.start(scale + 1)});
    };
    CHECK((of(0) == 1 && of(1) == 1 && of(2) == 1 && of(3) == 4));
    CHECK(count_of(hmar::edit_cells(Bytes(128 * 128, 1).data(), 128, scales)) == 85);
}

TEST_CASE("a count of a scale stands for the same share of the edited cells, rounded down") {
    CHECK((hmar::edited_share(8, 9, 9) == 8 && hmar::edited_share(8, 9, 6) == 5 && hmar::edited_share(5, 9, 6) == 3));
    CHECK((hmar::edited_share(3, 4, 1) == 0 && hmar::edited_share(0, 4, 4) == 0));
}

TEST_SUITE_END();
