// Hi-MAR's edits over both queues, and through the interfaces: what is kept, what is drawn, what runs together.
#include <algorithm>
#include <cmath>
#include <optional>
#include <thread>

#include "edit_pictures.h"
#include "error.h"
#include "families/hi_mar/editing.h"
#include "lane_pair.h"
#include "seed_draws.h"

namespace {

constexpr std::int64_t kSide = 16, kPixels = kSide * kSide;
using Bytes = std::vector<std::uint8_t>;

// Masks of four kinds: a pixel, a half, all but one position, all but a pixel. Of 16 high positions they touch 1, 8, 15 and 16,
// of 4 low ones 1, 2, 4 and 4.
bool drawn(int kind, std::int64_t row, std::int64_t column) {
    return (kind == 0 && row == 5 && column == 9) || (kind == 1 && column >= 8) || (kind == 2 && (row >= 4 || column >= 4)) ||
           (kind == 3 && (row > 0 || column > 0));
}

struct Given : EditPictures {
    Given() : EditPictures(kSide, drawn) {}
    // So many images that all have the mask of one kind.
    Edit edit(std::int64_t kind, std::int64_t count, std::int64_t dilation = 0) const {
        return {images.data(), masks.data() + kind * kPixels, count, kSide, true, dilation};
    }
};

Chunk chunk_of(const Edit& edit, std::vector<std::int64_t> labels, std::uint64_t first = 0) {
    labels.resize(static_cast<std::size_t>(edit.count), kNoClass);
    return ::chunk_of(std::move(labels), first, 5, nullptr, &edit);
}

Sampling unguided() {
    Sampling sampling = guided();
    sampling.low_guidance = sampling.high_guidance = 1;
    return sampling;
}

}  // namespace

TEST_SUITE_BEGIN("hi_mar_edit");

TEST_CASE("both queues draw the same edits, whatever ran before") {
    Pair pair("tiny-edit");
    const Given given;
    std::vector<Sampling> all = settings();
    all.resize(11);
    for (std::size_t i = 0; i < all.size(); ++i)
        for (const std::int64_t count : {2, 3, 1}) {
            const Edit edit = given.edit(static_cast<std::int64_t>(i + static_cast<std::size_t>(count)) % 4, count);
            const bool is_guided = all[i].low_guidance != 1 || all[i].high_guidance != 1;
            const Chunk chunk = chunk_of(edit, is_guided ? std::vector<std::int64_t>{1, 4, 0} : std::vector<std::int64_t>{});
            same(pair.on_device(chunk, all[i]), pair.on_host(chunk, all[i]));
            const Chunk whole = ::chunk_of({1, 2}, 0, 3);
            same(pair.on_device(whole, all[i]), pair.on_host(whole, all[i]));
        }
}

TEST_CASE("an edit that draws every position is the image of its seed, bit for bit") {
    Pair pair("tiny-edit");
    const Given given;
    const std::vector<std::int64_t> labels = {1, 4, 0};
    for (const Sampling& sampling : {guided(), unguided(), listed(), forecast()})
        for (const Edit& edit : {given.edit(3, 3), given.edit(2, 3, 1), given.edit(0, 3, kSide)}) {
            const Made whole = pair.on_host(::chunk_of(labels, 7, 5), sampling);
            const Made edited = pair.on_host(chunk_of(edit, labels, 7), sampling);
            CHECK(edited.latents == whole.latents);
            CHECK(edited.preview_latents == whole.preview_latents);
            CHECK(edited.pixels == whole.pixels);
        }
}

TEST_CASE("known positions keep the encoder's latents, whatever is drawn, and what is under the mask changes nothing") {
    Pair pair("tiny-edit");
    Given given;
    const Edit edit = given.edit(1, 1);
    const Made one = pair.on_host(chunk_of(edit, {1}), guided());
    const Made other = pair.on_host(chunk_of(edit, {3}, 9), guided());
    const Bytes drawn = drawn_positions(edit, 4);
    std::size_t kept = 0, changed = 0;
    for (std::size_t i = 0; i < one.latents.size(); ++i) {
        const bool is_same = one.latents[i] == other.latents[i];
        if (drawn[i % 16] == 0) CHECK(is_same);
        kept += drawn[i % 16] == 0;
        changed += !is_same;
    }
    CHECK((kept == 16 && changed == 16));  // of two channels
    for (std::size_t i = 0; i < kPixels; ++i)
        if (i % 16 >= 8) given.images[3 * i] ^= 0x55;
    CHECK(pair.on_host(chunk_of(edit, {1}), guided()).latents == one.latents);
}

TEST_CASE("an edit is the same in any chunk, and of draws that a caller gives for its seed") {
    Pair pair("tiny-edit");
    const Given given;
    SeedDraws draws(5);
    const himar_draws functions = c_draws(draws);
    for (const std::int64_t kind : {0, 1, 2}) {
        const Edit edit = given.edit(kind, 3);
        const Made all = pair.on_host(chunk_of(edit, {1, 4, 0}, 7), guided());
        Chunk drawn = chunk_of(edit, {1, 4, 0}, 7);
        drawn.draws = &functions;
        same(pair.on_host(drawn, guided()), all);
        const Edit last = edit.part(2, 1);
        const Made alone = pair.on_host(chunk_of(last, {0}, 9), guided());
        const std::size_t size = alone.latents.size();
        const std::vector<float> of_all(all.latents.end() - static_cast<std::ptrdiff_t>(size), all.latents.end());
        CHECK(relative(of_all, alone.latents) <= kSameEngines);
    }
}

TEST_CASE("phase high sees placeholders by a transformer of its own, and nothing waits once images are encoded") {
    Pair pair("tiny-edit");
    const Given given;
    const Edit half = given.edit(1, 2), most = given.edit(2, 2);
    const auto trace_of = [&](const Edit& edit) {
        pair.on_device(chunk_of(edit, {1, 2}), guided());  // loads what edits need
        pair.device->trace.clear();
        pair.on_device(chunk_of(edit, {1, 2}), guided());
        return pair.device->trace;
    };
    const std::vector<std::string> trace = trace_of(half);
    CHECK(pair.device->count("vae_encoder") == 2);
    CHECK(pair.device->count("transformer_high_edit") == 2);
    CHECK(pair.device->count("transformer_high") == 0);
    CHECK(pair.device->count("wait") + pair.device->count("synchronize") == 0);
    const auto first_replay = std::find(trace.begin(), trace.end(), "replay");
    REQUIRE(first_replay != trace.end());
    CHECK(std::find(first_replay, trace.end(), "upload") == trace.end());
    const auto first_download = std::find(first_replay, trace.end(), "download");
    CHECK(std::all_of(first_download, trace.end(), [](const std::string& each) { return each == "download"; }));
    trace_of(most);  // draws all low positions, so none lacks its pivot
    CHECK(pair.device->count("transformer_high_edit") == 0);
}

TEST_CASE("images of other counts run one after another, and the result has them in the request's order") {
    himar::Pipeline pipeline = load(bundle("tiny-edit"));
    const Given given;
    Bytes masks(5 * kPixels);
    const std::size_t kinds[] = {1, 0, 1, 2, 0};
    for (std::size_t i = 0; i < 5; ++i)
        std::copy_n(given.masks.begin() + static_cast<std::ptrdiff_t>(kinds[i] * kPixels), kPixels,
                    masks.begin() + static_cast<std::ptrdiff_t>(i * kPixels));
    Bytes images(5 * 3 * kPixels);
    for (std::size_t i = 0; i < images.size(); ++i) images[i] = given.images[i % given.images.size()];
    const himar::View<std::uint8_t> image_view{images.data(), {5, kSide, kSide, 3}}, mask_view{masks.data(), {5, kSide, kSide, 1}};
    himar::GenerateOptions options = options_of({0, 1, 2, 3, 4});
    std::vector<std::int64_t> together, totals;
    options.on_step = [&](const himar::Progress& step) {
        together.push_back(step.images), totals.push_back(step.total);
        return true;
    };
    const himar::Result all = pipeline.edit(image_view, mask_view, options, {0, 2});
    // Halves draw 2 and 8 positions in 2 + 2 steps, pixels 1 and 1 in a step each, the last 4 and 15 in 3 + 2.
    CHECK(together == std::vector<std::int64_t>{2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1});
    CHECK(totals == std::vector<std::int64_t>(11, 11));
    CHECK(values(all.labels()) == std::vector<std::int64_t>{0, 1, 2, 3, 4});
    for (std::int64_t i = 0; i < 5; ++i) {
        himar::GenerateOptions one = options_of({i});
        one.first_index = static_cast<std::uint64_t>(i);
        const himar::Result alone = pipeline.edit({images.data() + i * 3 * kPixels, {1, kSide, kSide, 3}},
                                                  {masks.data() + i * kPixels, {1, kSide, kSide, 1}}, one, {0, 2});
        CHECK(pixels_apart(values(all.of(i, 1).images()), values(alone.images())) <= 1);
        CHECK(relative(values(all.of(i, 1).latents()), values(alone.latents())) <= kSameEngines);
        CHECK(all.recipe(static_cast<std::size_t>(i)) == alone.recipe(0));
        CHECK(Json::parse(alone.recipe(0))["edit"]["feather"] == 2);
    }
    options.on_step = [](const himar::Progress& step) { return step.done < 5; };
    const himar::Result stopped = pipeline.edit(image_view, mask_view, options);
    CHECK((stopped.cancelled() && values(stopped.labels()) == std::vector<std::int64_t>{0, 2}));
    CHECK(Json::parse(stopped.recipe(1))["index"] == 2);
}

TEST_CASE("previews in full size show the rest as it is, smaller ones do not") {
    himar::Pipeline pipeline = load(bundle("tiny-edit"));
    const Given given;
    himar::GenerateOptions options = options_of({});
    std::vector<std::int64_t> sides;
    options.on_step = [&](const himar::Progress& step) {
        const himar::View<std::uint8_t> shown = step.so_far();
        sides.push_back(shown.shape()[1]);
        CHECK(step.preview().shape()[1] == 8);
        const himar::View<std::uint8_t> again = step.so_far();
        for (std::int64_t i = 0; i < kPixels && again.shape()[1] == kSide; ++i)
            if (given.masks[static_cast<std::size_t>(kPixels + i)] == 0)
                CHECK(std::equal(again.data() + 3 * i, again.data() + 3 * i + 3, given.images.data() + 3 * i));
        return true;
    };
    const himar::View<std::uint8_t> half{given.masks.data() + kPixels, {1, kSide, kSide, 1}};
    pipeline.edit(given.image_view(1), half, options);
    CHECK(sides == std::vector<std::int64_t>{8, 8, 16, 16});
}

TEST_CASE("edits that can run together have equal settings") {
    const himar::Pipeline pipeline = load(bundle("tiny-edit"));
    const Given given;
    const auto of = [&](std::int64_t kind, std::vector<std::int64_t> labels, const himar::EditOptions& how = {}) {
        return pipeline.edit_settings(given.image_view(1), {given.masks.data() + kind * kPixels, {1, kSide, kSide, 1}},
                                      options_of(std::move(labels)), how);
    };
    CHECK(of(1, {1}) == of(1, {3}));
    CHECK(of(1, {1}) != of(0, {1}));
    CHECK(of(1, {1}) != of(1, {}));
    CHECK(of(1, {1}) != of(1, {1}, {0, 1}));
    CHECK(of(2, {1}, {1, 0}) != of(3, {1}));
    CHECK(Json::parse(of(1, {1}))["edit"]["shows"] == "class");
    CHECK(Json::parse(of(1, {}))["low_guidance"] == 1.0);
    CHECK(Json::parse(of(1, {}))["edit"]["kinds"].size() == 1);
}

TEST_CASE("lanes edit at once, and load what edits need once") {
    const himar::Pipeline first = load(bundle("tiny-edit"));
    const Given given;
    std::vector<himar::Pipeline> lanes;
    for (int i = 0; i < 3; ++i) lanes.push_back(first.clone());
    std::vector<std::vector<float>> made(lanes.size());
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < lanes.size(); ++i)
        threads.emplace_back([&, i] {
            made[i] = values(lanes[i].edit(given.image_view(), given.mask_view(), options_of({1, 2, 3, 0})).latents());
        });
    for (std::thread& thread : threads) thread.join();
    for (const std::vector<float>& each : made) CHECK((!each.empty() && each == made.front()));
}

TEST_CASE("a model from text edits with prompts, or with none") {
    himar::Pipeline pipeline = load(bundle("tiny-text-edit"));
    const Given given;
    himar::GenerateOptions options = options_of({});
    const auto edit = [&] { return values(pipeline.edit(given.image_view(), given.mask_view(), options).latents()); };
    const std::vector<float> nothing = edit();
    options.prompts = {"red", "two", "red two", "two"};
    const std::vector<float> shown = edit();
    CHECK(shown != nothing);
    himar::GenerateOptions last = options_of({});
    last.prompts = {"two"}, last.first_index = 3;
    const himar::Result alone = pipeline.edit({given.images.data() + 9 * kPixels, {1, kSide, kSide, 3}},
                                              {given.masks.data() + 3 * kPixels, {1, kSide, kSide, 1}}, last);
    CHECK(relative(std::vector<float>(shown.end() - 32, shown.end()), values(alone.latents())) <= kSameEngines);
    CHECK(Json::parse(alone.recipe(0))["prompt"] == "two");
    const auto said = [&] {
        return sentence_of<himar::Error>([&] { pipeline.check_edit(given.image_view(), given.mask_view(), options); });
    };
    options.prompts = {"red", "two"};
    CHECK(said() == "4 images and 2 prompts are given; give one prompt per image.");
    options.prompts = {}, options.guidance = 2;
    holds(said(), "guidance is 2.0, but neither class nor prompt is given, and without one nothing guides an edit; give one, or");
    options = options_of({1});
    CHECK(said() == "labels are given, but this bundle's model makes images from text; give prompts.");
    options = options_of({});
    options.contexts.resize(4 * 6 * 5);
    CHECK(said() == "contexts are given, but an edit takes none; give prompts for what it is to show, or nothing.");
}

TEST_CASE("what does not fit is refused before anything runs") {
    const himar::Pipeline pipeline = load(bundle("tiny-edit"));
    const Given given;
    himar::GenerateOptions options = options_of({});
    himar::EditOptions how;
    const auto said = [&] {
        return sentence_of<himar::Error>([&] { pipeline.check_edit(given.image_view(1), given.mask_view(1), options, how); });
    };
    how.dilation = 17;
    CHECK(said() == "dilation is 17; it must be a whole number from 0 to 16, the side of the images.");
    how = {0, -1};
    CHECK(said() == "feather is -1; it must be a whole number from 0 to 16, the side of the images.");
    how = {};
    const auto unguided_sentence = [](const std::string& start) {
        return start + ", but neither class nor prompt is given, and without one nothing guides an edit; give one, or leave " +
               start.substr(0, start.find(' ')) + " out.";
    };
    options.high_guidance = 1.5;
    CHECK(said() == unguided_sentence("high_guidance is 1.5"));
    options = options_of({});
    options.low_guidances = "[1, 2.5]";
    CHECK(said() == unguided_sentence("low_guidances is [1.0, 2.5]"));
    options = options_of({});
    options.guidance_schedule = HIMAR_GUIDANCE_CONSTANT;
    CHECK(said() == unguided_sentence("guidance_schedule is constant"));
    options = options_of({});
    options.prompts = {"a cat"};
    CHECK(said() == "prompts are given, but this bundle's model makes images of classes; give labels.");
    options.labels = {1};
    CHECK(said() == "labels and prompts are given to say what to generate; give labels, as this bundle's model takes them.");
    options = options_of({1});
    options.high_steps = 17;
    holds(said(), "high_steps is 17, but phase high has only 16 positions");
    Copy copy("tiny-edit");
    copy.edit([](Json& manifest) { manifest["components"].erase("transformer_high_edit"); });
    CHECK(sentence_of<himar::Error>([&] { load(copy.path()).check_edit(given.image_view(1), given.mask_view(1), options_of({})); }) ==
          copy.path().string() + " has no transformer_high_edit, which edits need; build it again with --editing.");
}

TEST_CASE("an encoder that gives no numbers is an error of the engine") {
    himar::Pipeline pipeline = load(bundle("nan-vae_encoder"));
    const Given given;
    holds(sentence_of<himar::Error>([&] { pipeline.edit(given.image_view(1), given.mask_view(1), options_of({1})); }),
          "vae_encoder returned values that are not finite;");
    CHECK(pipeline.generate(options_of({1})).labels().size() == 1);
}

TEST_SUITE_END();
