// HMAR's edits over both queues, and through the interfaces: what is kept, what is drawn, what is refused.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <thread>
#include <vector>

#include "bundles.h"
#include "edit_pictures.h"
#include "error.h"
#include "families/hmar/editing.h"
#include "hmar_lanes.h"

using namespace himar::core;
using namespace himar::core::hmar;

namespace {

constexpr std::int64_t kSide = 12, kPixels = kSide * kSide;
using Bytes = std::vector<std::uint8_t>;

// Masks of four kinds: a corner, a half, a border, all but a pixel.
bool drawn(int kind, std::int64_t row, std::int64_t column) {
    return (kind == 0 && row < 3 && column < 2) || (kind == 1 && column >= 6) ||
           (kind == 2 && (row < 4 || row > 7 || column < 4 || column > 7)) || (kind == 3 && (row > 0 || column > 0));
}

struct Given : EditPictures {
    Given() : EditPictures(kSide, drawn) {}
    Edit edit(std::int64_t first = 0, std::int64_t count = 4) const {
        return Edit{images.data(), masks.data(), 4, kSide, false}.part(first, count);
    }
};

Chunk chunk_of(const Edit& edit, const std::vector<std::int64_t>& labels, std::uint64_t first = 0) {
    return ::chunk_of(labels, first, 5, nullptr, &edit);
}

// Every kind of forward that an edit has.
std::vector<Sampling> settings(const HmarLanes& lanes) {
    std::vector<Sampling> all(4, lanes.setting());
    all[1].guidance = 0;
    all[2].schedule = {{1}, {1, 3}, {2, 7}};
    all[3].schedule = {}, all[3].all_scales = true;
    return all;
}

}  // namespace

TEST_SUITE_BEGIN("hmar_edit");

TEST_CASE("both queues keep and draw the same codes, whatever ran before") {
    HmarLanes lanes;
    const Given given;
    for (const Sampling& sampling : settings(lanes))
        for (const std::int64_t count : {2, 4, 1}) {
            const Edit edit = given.edit(0, count);
            std::vector<std::int64_t> labels = {1, 4, 0, 3};
            labels.resize(static_cast<std::size_t>(count));
            if (sampling.guidance == 0) std::fill(labels.begin(), labels.end(), kNoClass);
            const Chunk chunk = chunk_of(edit, labels);
            same(lanes.run(*lanes.resident, chunk, sampling), lanes.run(*lanes.host, chunk, sampling));
            const Chunk whole = ::chunk_of({1, 2}, 0, 3);
            same(lanes.run(*lanes.resident, whole, sampling), lanes.run(*lanes.host, whole, sampling));
        }
}

TEST_CASE("cells outside the mask keep the image's codes, whatever is drawn") {
    HmarLanes lanes;
    const Given given;
    const Edit edit = given.edit();
    const Made one = lanes.run(*lanes.host, chunk_of(edit, {1, 4, 0, 3}), lanes.setting());
    Chunk other = chunk_of(edit, {2, 2, 2, 2});
    for (himar::ImageOrigin& origin : other.origins) origin.seed = 99;
    const Made two = lanes.run(*lanes.host, other, lanes.setting());
    std::size_t differ = 0;
    for (std::int64_t image = 0; image < 4; ++image) {
        const Bytes cells = edit_cells(edit.mask(image), kSide, lanes.model().scales);
        for (std::size_t cell = 0; cell < cells.size(); ++cell) {
            const std::size_t place = static_cast<std::size_t>(image) * cells.size() + cell;
            if (cells[cell] == 0) CHECK(one.codes[place] == two.codes[place]);
            differ += one.codes[place] != two.codes[place];
        }
    }
    CHECK(differ > 0);
}

TEST_CASE("where every cell is drawn an edit has the codes of its seed, class and schedule") {
    HmarLanes lanes;
    const Given given;
    const Edit edit = given.edit(3, 1);
    for (const Sampling& sampling : settings(lanes)) {
        const Made edited = lanes.run(*lanes.host, chunk_of(edit, {2}, 7), sampling);
        CHECK(edited.codes == lanes.run(*lanes.host, ::chunk_of({2}, 7, 5), sampling).codes);
    }
}

TEST_CASE("images have their own counts of cells, so an image is the same in any chunk") {
    HmarLanes lanes;
    const Given given;
    const Edit edit = given.edit();
    const std::vector<std::int64_t> labels = {1, 4, 0, 3};
    for (const Sampling& sampling : settings(lanes)) {
        const Made all = lanes.run(*lanes.host, chunk_of(edit, labels, 7), sampling);
        for (std::int64_t image = 0; image < 4; ++image) {
            const Edit alone = given.edit(image, 1);
            const auto place = static_cast<std::size_t>(image);
            const Made one = lanes.run(*lanes.host, chunk_of(alone, {labels[place]}, 7 + place), sampling);
            CHECK(std::equal(one.codes.begin(), one.codes.end(), all.codes.begin() + image * lanes.model().scales.tokens()));
        }
    }
}

TEST_CASE("an edit of few cells leaves out masked steps that would redraw none, and nothing waits before the end") {
    HmarLanes lanes;
    const Given given;
    const Edit corner = given.edit(0, 1);
    Sampling sampling = lanes.setting();
    sampling.schedule = {{1}, {1, 3}, {8, 1}};
    lanes.run(*lanes.resident, chunk_of(corner, {1}), sampling);  // loads the encoder
    lanes.device->trace.clear();
    lanes.run(*lanes.resident, chunk_of(corner, {1}), sampling);
    const auto& trace = lanes.device->trace;
    CHECK(lanes.device->count("wait") + lanes.device->count("synchronize") == 0);
    // With the ring all of 2×2 cells are edited, and four of 3×3, of which 1 of 9 stands for none.
    CHECK(lanes.device->count("trunk") == 1 + 2 + 1);
    CHECK(lanes.device->count("himar_nearest_codes") == 3);
    CHECK(lanes.device->count("himar_least_confident_of_each") == 1);
    CHECK(lanes.device->count("himar_least_confident") == 0);
    const auto first_draw = std::find(trace.begin(), trace.end(), "himar_draw_codes");
    CHECK(std::find(first_draw, trace.end(), "upload") == trace.end());
    const auto first_download = std::find(trace.begin(), trace.end(), "download");
    CHECK(std::all_of(first_download, trace.end(), [](const std::string& each) { return each == "download"; }));
}

TEST_CASE("lanes edit at once, and load the encoder once") {
    HmarLanes lanes;
    const Given given;
    const Edit edit = given.edit();
    const Chunk chunk = chunk_of(edit, {1, 4, 0, 3});
    std::vector<std::unique_ptr<Lane>> all;
    for (int i = 0; i < 3; ++i) all.push_back(lanes.host->clone());
    std::vector<Made> made(all.size());
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < all.size(); ++i)
        threads.emplace_back([&, i] { made[i] = lanes.run(*all[i], chunk, lanes.setting()); });
    for (std::thread& thread : threads) thread.join();
    const Made wanted = lanes.run(*lanes.host, chunk, lanes.setting());
    for (const Made& each : made) CHECK((each.finished && each.codes == wanted.codes));
}

TEST_CASE("through the C++ interface pixels outside the masks stay, in previews too, and recipes tell of both") {
    himar::Pipeline pipeline = load(bundle("tiny-hmar"));
    const Given given;
    himar::GenerateOptions options = options_of({});
    std::int64_t previews = 0;
    const auto kept = [&](const himar::View<std::uint8_t>& images) {
        bool all = true, drawn = false;
        for (std::int64_t i = 0; i < 4 * kPixels; ++i) {
            const auto place = static_cast<std::size_t>(i);
            const bool equal = std::equal(images.data() + 3 * i, images.data() + 3 * i + 3, given.images.data() + 3 * i);
            if (given.masks[place] == 0) all = all && equal;
            drawn = drawn || !equal;
        }
        return all && drawn;
    };
    options.on_step = [&](const himar::Progress& step) {
        CHECK((step.total == 3 && step.images == 4 && kept(step.preview())));
        return ++previews > 0;
    };
    const himar::Result result = pipeline.edit(given.image_view(), given.mask_view(), options);
    CHECK(previews == 3);
    CHECK(kept(result.images()));
    CHECK(values(result.labels()) == std::vector<std::int64_t>(4, -1));
    const Json recipe = Json::parse(result.recipe(1));
    CHECK((recipe["label"].is_null() && recipe["sampling"]["guidance"] == 0.0));
    CHECK(recipe["edit"]["image"] == given.edit().image_hash(1));
    CHECK(recipe["edit"]["mask"] == given.edit().mask_hash(1));
    options.labels = {3, 1, 2, 0};
    options.on_step = [](const himar::Progress& step) { return step.done < 2; };
    CHECK(pipeline.edit(given.image_view(), given.mask_view(1), options).cancelled());
    options.on_step = nullptr;
    const himar::Result shared = pipeline.clone().edit(given.image_view(), given.mask_view(1), options);
    CHECK(Json::parse(shared.recipe(3))["edit"]["mask"] == given.edit().mask_hash(0));
    CHECK(Json::parse(shared.recipe(3))["label"] == 0);
}

TEST_CASE("what does not fit is refused before anything runs") {
    const himar::Pipeline pipeline = load(bundle("tiny-hmar"));
    const Given given;
    himar::GenerateOptions options = options_of({});
    const auto said = [&](const himar::View<std::uint8_t>& images, const himar::View<std::uint8_t>& masks) {
        return sentence_of<himar::Error>([&] { pipeline.check_edit(images, masks, options); });
    };
    const std::uint8_t *const images = given.images.data(), *const masks = given.masks.data();
    CHECK(said({nullptr, {0, 12, 12, 3}}, given.mask_view()) == "images is empty; give at least one image and its mask.");
    CHECK(said({images, {1, 12, 12, 1}}, given.mask_view(1)) ==
          "image 0 has type uint8 and shape (12, 12, 1); give RGB pixels uint8 (height, width, 3), 0 to 255.");
    CHECK(said({images, {1, 8, 12, 3}}, given.mask_view(1)) ==
          "image 0 has 12 × 8 pixels, but the model's images have 12 × 12; crop or resize it first, or place a smaller image "
          "on a canvas.");
    CHECK(said(given.image_view(), {nullptr, {4, 12, 12, 1}}) == "masks is empty; give at least one image and its mask.");
    CHECK(said(given.image_view(), given.mask_view(3)) ==
          "4 images and 3 masks are given; give one mask per image, or one.");
    CHECK(said(given.image_view(1), {masks, {1, 12, 10, 1}}) ==
          "mask 0 has 10 × 12 pixels, but its image has 12 × 12; give a mask of the image's size.");
    CHECK(said(given.image_view(1), {masks, {1, 12, 4, 3}}) == "masks have 3 values per pixel; give one, (B, H, W, 1).");
    options.guidance = 2;
    CHECK(said(given.image_view(1), given.mask_view(1)) ==
          "guidance is 2, but no class is given, and without one nothing guides an edit; give a class, or leave guidance out.");
    options = options_of({1, 2, 3});
    CHECK(said(given.image_view(), given.mask_view()) == "4 images and 3 labels are given; give one label per image.");
    options = options_of({1});
    options.smooth = true, options.schedule = "[]";
    CHECK(said(given.image_view(1), given.mask_view(1)) ==
          "smooth is set, but a smooth preview draws no codes; leave smooth out to edit an image.");
    options = options_of({1});
    options.first_index = std::uint64_t{1} << 32;
    holds(said(given.image_view(1), given.mask_view(1)), "first_index is 4294967296; it must be 0 to 4294967295.");
    options = options_of({1});
    CHECK(sentence_of<himar::Error>([&] { load().check_edit(given.image_view(1), given.mask_view(1), options); }) ==
          bundle("tiny").string() + " has no vae_encoder, which reads the images to be edited; build it again with --editing.");
    CHECK(sentence_of<himar::Error>([&] {
              load(bundle("tiny-hmar-no-encoder")).check_edit(given.image_view(1), given.mask_view(1), options);
          }) == bundle("tiny-hmar-no-encoder").string() +
                    " has no vae_encoder, which reads the images to be edited; build the bundle again with this version of "
                    "himar.");
    himar::EditOptions how{1, 0};
    CHECK(sentence_of<himar::Error>([&] { pipeline.check_edit(given.image_view(1), given.mask_view(1), options, how); }) ==
          "dilation is 1, but an HMAR model draws a ring around the mask at its fine scales by itself; leave it out.");
    how = {0, 13};
    CHECK(sentence_of<himar::Error>([&] { pipeline.check_edit(given.image_view(1), given.mask_view(1), options, how); }) ==
          "feather is 13; it must be a whole number from 0 to 12, the side of the images.");
    himar_edit_params params{};
    himar_generate_params generate;
    himar_generate_params_init(&generate);
    himar_result* result = nullptr;
    CHECK(himar_pipeline_edit(pipeline.get(), &generate, &params, &result) == HIMAR_ERROR_INPUT);
    holds(himar_last_error(), "himar_edit_params.struct_size is 0; it must be");
    CHECK(himar_pipeline_edit(pipeline.get(), &generate, nullptr, &result) == HIMAR_ERROR_INPUT);
    holds(himar_last_error(), "edit is NULL");
    himar_edit_params_init(&params);
    params.images = images, params.masks = masks;
    std::copy_n(std::begin({1, 12, 12, 3}), 4, params.image_shape), std::copy_n(std::begin({1, 12, 12}), 3, params.mask_shape);
    params.feather = 99;
    CHECK(himar_pipeline_check_edit(pipeline.get(), &generate, &params) == HIMAR_ERROR_INPUT);
    params.struct_size = offsetof(himar_edit_params, dilation);  // as the first header had it: what is behind is not read
    CHECK(himar_pipeline_check_edit(pipeline.get(), &generate, &params) == HIMAR_OK);
    CHECK(himar_edit_params_init(nullptr) == HIMAR_ERROR_INPUT);
    CHECK(result == nullptr);
}

TEST_CASE("an encoder that gives no numbers is an error of the engine") {
    himar::Pipeline pipeline = load(bundle("tiny-hmar-nan"));
    const Given given;
    holds(sentence_of<himar::Error>([&] { pipeline.edit(given.image_view(1), given.mask_view(1), options_of({1})); }),
          "vae_encoder returned values that are not finite;");
    CHECK(pipeline.generate(options_of({1})).labels().size() == 1);
}

TEST_SUITE_END();
