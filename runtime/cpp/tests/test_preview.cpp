// The preview in pixels: a small image of what the low phase has made so far, for whoever waits.
#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "bundles.h"
#include "closeness.h"
#include "himar/himar.hpp"

namespace {

// What is said of a preview asked for after every step; the images must come all the same.
std::string refusal(const std::filesystem::path& path) {
    himar::Pipeline pipeline = load(path);
    himar::GenerateOptions options = options_of({1, 2});
    std::string said;
    options.on_step = [&](const himar::Progress& step) {
        said = sentence_of<himar::Error>([&] { step.preview(); });
        return true;
    };
    CHECK(pipeline.generate(options).labels().size() == 2);
    return said;
}

}  // namespace

TEST_SUITE_BEGIN("preview");

TEST_CASE("previews are half as large, fill up with the low phase and then stay; the images do not change") {
    himar::Pipeline pipeline = load(bundle("tiny"));
    himar::GenerateOptions options = options_of({3, 0, 4, 1, 2}, 5);
    const std::vector<std::uint8_t> wanted = values(pipeline.generate(options).images());
    std::vector<std::vector<std::uint8_t>> previews;
    options.on_step = [&](const himar::Progress& step) {
        const himar::View<std::uint8_t> preview = step.preview();
        CHECK(preview.shape() == std::array<std::int64_t, 4>{step.images, 8, 8, 3});
        CHECK(values(step.preview()) == values(preview));
        previews.push_back(values(preview));
        return true;
    };
    CHECK(values(pipeline.generate(options).images()) == wanted);
    REQUIRE(previews.size() == 10);
    CHECK(previews[0] != previews[1]);
    CHECK(previews[1] != previews[2]);
    CHECK(previews[2] == previews[3]);
    CHECK(previews[3] == previews[4]);
    CHECK(previews[4].size() == 3 * 8 * 8 * 3);
    CHECK(previews[5].size() == 2 * 8 * 8 * 3);
}

TEST_CASE("a part of a step shows its images alone, whatever stage it is of") {
    himar::Pipeline pipeline = load(bundle("tiny"));
    himar::GenerateOptions options = options_of({3, 0, 4}, 5);
    std::size_t steps = 0;
    options.on_step = [&](const himar::Progress& step) {
        ++steps;
        const auto all = values(step.preview()), whole = values(step.so_far());
        const himar::Progress part = step.of(1, 2), last = part.of(1, 1);
        CHECK((part.images == 2 && last.images == 1 && part.done == step.done && part.stage_name == step.stage_name));
        const auto latents = values(step.preview_latents);
        const auto one = static_cast<std::ptrdiff_t>(latents.size() / 3);
        CHECK(values(part.preview_latents) == std::vector(latents.begin() + one, latents.end()));
        const auto tail = [](const std::vector<std::uint8_t>& pixels, std::size_t images) {
            return std::vector(pixels.end() - static_cast<std::ptrdiff_t>(pixels.size() / 3 * images), pixels.end());
        };
        CHECK(pixels_apart(values(part.preview()), tail(all, 2)) <= 1);
        CHECK(pixels_apart(values(last.preview()), tail(all, 1)) <= 1);
        CHECK(pixels_apart(values(last.so_far()), tail(whole, 1)) <= 1);
        CHECK(part.preview().shape()[0] == 2);
        holds(sentence_of<himar::Error>([&] { part.of(1, 2); }), "a part of 2 images from number 1 on is asked for; there are 2.");
        return true;
    };
    pipeline.generate(options);
    CHECK(steps == 5);
}

TEST_CASE("images so far are the previews of phase low, then whole ones that fill up; the images do not change") {
    himar::Pipeline pipeline = load(bundle("tiny"));
    himar::GenerateOptions options = options_of({3, 0, 4, 1, 2}, 5);
    const std::vector<std::uint8_t> wanted = values(pipeline.generate(options).images());
    std::vector<std::vector<std::uint8_t>> shown;
    options.on_step = [&](const himar::Progress& step) {
        const bool is_low = step.stage_name == "low";
        CHECK(step.stage_steps == (is_low ? 3 : 2));
        const himar::View<std::uint8_t> whole = step.so_far();
        const std::int64_t side = is_low ? 8 : 16;
        CHECK(whole.shape() == std::array<std::int64_t, 4>{step.images, side, side, 3});
        shown.push_back(values(whole));
        if (is_low) CHECK(values(step.preview()) == shown.back());
        return true;
    };
    CHECK(values(pipeline.generate(options).images()) == wanted);
    REQUIRE(shown.size() == 10);
    CHECK(shown[3] != shown[4]);
    std::vector<std::uint8_t> last = shown[4];
    last.insert(last.end(), shown[9].begin(), shown[9].end());
    CHECK(last == wanted);  // nothing is masked after the last step
}

TEST_CASE("stages have their seconds where somebody is told of steps") {
    himar::Pipeline pipeline = load(bundle("tiny"));
    himar::GenerateOptions options = options_of({3, 0}, 5);
    CHECK(pipeline.generate(options).stage_seconds().empty());
    options.on_step = [](const himar::Progress&) { return true; };
    const himar::Result result = pipeline.generate(options);
    const std::vector<double> seconds = result.stage_seconds();
    REQUIRE(seconds.size() == 3);  // low, high, decode
    for (const double each : seconds) CHECK(each > 0);
    CHECK(seconds[0] + seconds[1] + seconds[2] <= result.seconds());
}

TEST_CASE("more images than are decoded together, each its own preview") {
    const Copy copy;
    copy.edit([](Json& m) { m["max_batch"] = 11; });
    himar::Pipeline pipeline = load(copy.path());
    const auto last_preview = [&](std::vector<std::int64_t> labels, std::uint64_t first) {
        himar::GenerateOptions options = options_of(std::move(labels));
        options.first_index = first;
        std::vector<std::uint8_t> last;
        options.on_step = [&](const himar::Progress& step) {
            if (step.done == step.total) last = values(step.preview());
            return true;
        };
        pipeline.generate(options);
        return last;
    };
    const auto all = last_preview({3, 0, 4, 1, 2, 3, 0, 4, 1, 2, 3}, 0), one = last_preview({2}, 9);
    REQUIRE(all.size() == 11 * one.size());
    const auto ninth = all.begin() + static_cast<std::ptrdiff_t>(9 * one.size());
    CHECK(pixels_apart(std::vector(ninth, ninth + static_cast<std::ptrdiff_t>(one.size())), one) <= 1);
}

TEST_CASE("a bundle that cannot make previews says why, and still makes images") {
    holds(refusal(bundle("no-decoder")), "this bundle has no VAE decoder, so there is no preview in pixels; use preview_latents");
    const Copy fixed, ranged;
    fixed.edit([](Json& m) {
        auto& shape = m["components"]["vae_decoder"]["inputs"][0]["shape"];
        shape[2] = shape[3] = 4;
    });
    CHECK(refusal(fixed.path()) == "this bundle's vae_decoder does not take latents of 2 by 2, so there is no preview in "
                                   "pixels; use preview_latents, or build the bundle again.");
    ranged.edit([](Json& m) { m["components"]["vae_decoder"]["profile"]["height"] = {4, 4, 4}; });
    holds(refusal(ranged.path()), "does not take latents of 2 by 2");
}

TEST_CASE("a decoder without inputs is refused, not read beyond its end") {
    const Copy copy;
    copy.edit([](Json& m) { m["components"]["vae_decoder"]["inputs"] = Json::array(); });
    himar::Pipeline pipeline = load(copy.path());
    himar::GenerateOptions options = options_of({1});
    std::string said;
    options.on_step = [&](const himar::Progress& step) {
        said = sentence_of<himar::Error>([&] { step.preview(); });
        return false;
    };
    CHECK(pipeline.generate(options).cancelled());
    holds(said, "this bundle's vae_decoder does not take latents of 2 by 2");
}

TEST_CASE("a preview that is not finite is an error of the preview alone") {
    himar::Pipeline pipeline = load(bundle("nan-vae_decoder"));
    himar::GenerateOptions options = options_of({1});
    std::string said;
    options.on_step = [&](const himar::Progress& step) {
        if (step.done == 1) said = sentence_of<himar::Error>([&] { step.preview(); });
        return step.done < 2;
    };
    CHECK(pipeline.generate(options).cancelled());
    holds(said, "vae_decoder returned values that are not finite in a preview;");
}

TEST_CASE("NULL is refused") {
    const std::uint8_t* pixels = nullptr;
    std::int64_t shape[4];
    himar_progress progress{};
    CHECK(himar_progress_preview(nullptr, &pixels, shape) == HIMAR_ERROR_INPUT);
    CHECK(himar_progress_preview(&progress, &pixels, shape) == HIMAR_ERROR_INPUT);
    CHECK(himar_progress_preview(&progress, nullptr, shape) == HIMAR_ERROR_INPUT);
    CHECK(himar_progress_preview(&progress, &pixels, nullptr) == HIMAR_ERROR_INPUT);
}

TEST_SUITE_END();
