// What all families do with the images and masks of an edit: cells, the hole, what is pasted, hashes, refusals.
#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "bundle/sha256.h"
#include "bundles.h"
#include "error.h"
#include "families/edit.h"
#include "families/hi_mar/editing.h"
#include "families/hmar/editing.h"
#include "families/resize.h"

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

TEST_CASE("chosen images keep their masks, in the order of their places") {
    const Bytes images = {1, 1, 1, 2, 2, 2, 3, 3, 3}, masks = {0, 1, 0};  // of one pixel each
    const Edit edit = Edit{images.data(), masks.data(), 3, 1, false, 0, 1}.some({2, 0, 1});
    CHECK((edit.count == 3 && edit.feather == 1));
    CHECK((*edit.image(0) == 3 && *edit.image(2) == 2 && *edit.mask(1) == 0 && *edit.mask(2) == 1));
    const Edit last = edit.part(1, 2).some({1});
    CHECK((last.count == 1 && *last.image(0) == 2 && *last.mask(0) == 1));
}

TEST_CASE("a feather blends ring by ring from the mask's border, rounded half up") {
    const Bytes image(3 * 25, 10), mask = [] {
        Bytes made(25, 1);
        for (std::size_t row = 0; row < 5; ++row) made[5 * row] = 0;  // the first column is kept
        return made;
    }();
    const auto row_of = [&](std::int64_t feather) {
        Bytes drawn(3 * 25, 20);
        Edit{image.data(), mask.data(), 1, 5, false, 0, feather}.paste(drawn.data());
        for (std::size_t row = 0; row < 5; ++row)
            CHECK(std::equal(drawn.begin(), drawn.begin() + 15, drawn.begin() + static_cast<std::ptrdiff_t>(15 * row)));
        return Bytes{drawn[0], drawn[3], drawn[6], drawn[9], drawn[12]};
    };
    CHECK(row_of(0) == Bytes{10, 20, 20, 20, 20});
    CHECK(row_of(1) == Bytes{10, 15, 20, 20, 20});
    CHECK(row_of(2) == Bytes{10, 13, 17, 20, 20});  // 13.3, 16.7
    CHECK(row_of(5) == Bytes{10, 12, 13, 15, 17});  // 11.7, 13.3, 15, 16.7; the image's own edge is no border
}

TEST_CASE("rings below 0 or above the side are refused") {
    const Bytes image(12), mask(4);
    const auto said = [&](std::int64_t dilation, std::int64_t feather) {
        return sentence_of<InputError>([&] { Edit{image.data(), mask.data(), 1, 2, false, dilation, feather}.check_rings(); });
    };
    CHECK(said(-1, 0) == "dilation is -1; it must be a whole number from 0 to 2, the side of the images.");
    CHECK(said(0, 3) == "feather is 3; it must be a whole number from 0 to 2, the side of the images.");
    Edit{image.data(), mask.data(), 1, 2, false, 2, 2}.check_rings();
}

TEST_CASE("an image is made smaller in whole numbers, and one of a single colour keeps it") {
    for (const auto& [given, wanted] : {std::pair(4, 2), std::pair(5, 3), std::pair(3, 3), std::pair(256, 128)}) {
        const std::vector<std::int64_t> weights = cubic_weights(given, wanted);
        REQUIRE(weights.size() == static_cast<std::size_t>(given * wanted));
        for (std::int64_t row = 0; row < wanted; ++row) {
            std::int64_t sum = 0;
            for (std::int64_t i = 0; i < given; ++i) sum += weights[static_cast<std::size_t>(row * given + i)];
            CHECK(sum == kResizeUnit);
        }
    }
    CHECK(cubic_weights(2, 2) == std::vector<std::int64_t>{kResizeUnit, 0, 0, kResizeUnit});
    const Bytes white(3 * 49, 255), black(3 * 49, 0);
    std::vector<float> values(3 * 9);
    write_resized(white.data(), 7, 3, values.data());
    CHECK(values == std::vector<float>(27, 1.0f));
    write_resized(black.data(), 7, 3, values.data());
    CHECK(values == std::vector<float>(27, -1.0f));
}

TEST_CASE("drawn positions come first in an order, and all others after them, else as they were") {
    std::vector<himar::u32> ranks = {3, 0, 2, 1, /* the second image's */ 1, 0, 3, 2};  // orders 1 3 2 0, and 1 0 3 2
    hi_mar::move_drawn_first(ranks, {1, 0, 1, 0, 1, 1, 1, 1}, 4);
    CHECK(ranks == std::vector<himar::u32>{1, 2, 0, 3, 1, 0, 3, 2});  // orders 2 0 1 3, and 1 0 3 2
}

TEST_CASE("known low positions see placeholders, which lie behind the pivots of all rows") {
    const Bytes drawn = {1, 0, 0, 1};  // of two images with two positions
    CHECK(hi_mar::guide_rows(drawn, 2, 1) == std::vector<himar::i64>{0, 5, 4, 3});
    CHECK(hi_mar::guide_rows(drawn, 2, 2) == std::vector<himar::i64>{0, 9, 8, 3, 4, 9, 8, 7});
}

TEST_CASE("tokens of known positions are the latents times the VAE scale, and 0 where positions are drawn") {
    const std::vector<float> latents = {1, 2, 10, 20, 3, 4, 30, 40};  // of two images with two channels and positions
    const Bytes drawn = {0, 1, 0, 0};
    CHECK(hi_mar::known_tokens(latents, drawn.data(), 2, 2, 2, 0.5) == std::vector<float>{0.5f, 5, 0, 0, 1.5f, 15, 2, 20});
}

TEST_CASE("an edit has a step for each position of few, takes the last of a list last, and guides by all positions") {
    hi_mar::Sampling sampling;
    sampling.low_steps = 4, sampling.high_steps = 3, sampling.low_guidance = sampling.high_guidance = 3;
    sampling.low_diffusion_counts = {40, 30, 20, 10}, sampling.high_guidances = {1, 2, 5};
    const std::vector<hi_mar::Step> steps = hi_mar::plan(sampling, 16, 64, hi_mar::DrawnCounts{2, 64});
    REQUIRE(steps.size() == 2 + 3);
    CHECK((steps[0].masked == 2 && steps[0].revealed == 1 && steps[1].masked == 1 && steps[1].revealed == 1));
    CHECK((steps[0].diffusion_steps == 30 && steps[1].diffusion_steps == 10));
    CHECK(steps[0].guidance == doctest::Approx(1 + 2 * 15.0 / 16));
    CHECK((steps[2].stage == 1 && steps[2].masked == 64 && steps[4].guidance == 5));
    const std::vector<hi_mar::Step> whole = hi_mar::plan(sampling, 16, 64);
    const std::vector<hi_mar::Step> all = hi_mar::plan(sampling, 16, 64, hi_mar::DrawnCounts{16, 64});
    REQUIRE(all.size() == whole.size());
    for (std::size_t i = 0; i < all.size(); ++i)
        CHECK((all[i].masked == whole[i].masked && all[i].revealed == whole[i].revealed &&
               all[i].guidance == whole[i].guidance && all[i].diffusion_steps == whole[i].diffusion_steps));
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
