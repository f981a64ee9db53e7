// What a generation gives, through the C++ header as a user calls it.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "bundles.h"
#include "closeness.h"
#include "himar/himar.hpp"

TEST_SUITE_BEGIN("generate");

TEST_CASE("shapes, labels and recipes are those asked for") {
    himar::Pipeline pipeline = load();
    const himar::Result result = pipeline.generate(options_of({3, 0, 4}));
    CHECK(!result.cancelled());
    CHECK(result.images().shape() == std::array<std::int64_t, 4>{3, 16, 16, 3});
    CHECK(result.latents().shape() == std::array<std::int64_t, 4>{3, 2, 4, 4});
    CHECK(result.low_latents().shape() == std::array<std::int64_t, 4>{3, 2, 2, 2});
    CHECK(values(result.labels()) == std::vector<std::int64_t>{3, 0, 4});
    CHECK(std::all_of(result.latents().begin(), result.latents().end(), [](float x) { return std::isfinite(x); }));
    holds(result.recipe(1), "{\"seed\":7,\"index\":1,\"label\":0,\"sampling\":{\"low_steps\":3,");
    CHECK(result.engine_seconds() > 0);
    CHECK(result.engine_seconds() <= result.seconds());
    CHECK_THROWS_AS(result.images().image(3), std::out_of_range);
}

TEST_CASE("an image depends on its seed, index and label alone") {
    himar::Pipeline pipeline = load();
    const himar::Result all = pipeline.generate(options_of({3, 0, 4, 1, 2, 3}));  // two chunks of three
    himar::GenerateOptions alone = options_of({1});
    alone.first_index = 3;
    const himar::Result one = pipeline.generate(alone);
    CHECK(relative(all.latents().image(3), one.latents()) <= kSameEngines);
    CHECK(relative(all.low_latents().image(3), one.low_latents()) <= kSameEngines);
    CHECK(relative(all.latents().image(0), one.latents()) > 100 * kSameEngines);
    CHECK(values(pipeline.generate(options_of({3, 0, 4, 1, 2, 3})).images()) == values(all.images()));
    CHECK(values(pipeline.generate(options_of({3, 0, 4, 1, 2, 3}, 8)).latents()) != values(all.latents()));
}

// What each image has, to the bit: rows of a batch do not depend on each other.
TEST_CASE("images with a seed and an index each are those of a batch of the seed, and those of each alone") {
    himar::Pipeline pipeline = load();
    const std::vector<std::int64_t> labels = {3, 0, 4, 1, 2, 3};  // two chunks of three
    himar::GenerateOptions mixed = options_of(labels, 0);
    mixed.seeds = {7, 8, 7, 8, ~0ull, 7};
    mixed.indices = {0, 1, 2, 3, 4294967295u, 5};
    const himar::Result together = pipeline.generate(mixed);
    const himar::Result sevens = pipeline.generate(options_of(labels, 7)), eights = pipeline.generate(options_of(labels, 8));
    for (const std::int64_t image : {0, 1, 2, 3, 5}) {
        const himar::Result& of_one = mixed.seeds[static_cast<std::size_t>(image)] == 7 ? sevens : eights;
        CHECK(values(together.latents().image(image)) == values(of_one.latents().image(image)));
        CHECK(values(together.images().image(image)) == values(of_one.images().image(image)));
    }
    for (std::size_t image = 0; image < labels.size(); ++image) {
        himar::GenerateOptions alone = options_of({labels[image]}, mixed.seeds[image]);
        alone.first_index = mixed.indices[image];
        const himar::Result one = pipeline.generate(alone);
        CHECK(relative(together.latents().image(static_cast<std::int64_t>(image)), one.latents()) <= kSameEngines);
        CHECK(together.recipe(image) == one.recipe(0));
    }
    mixed.indices.clear(), mixed.first_index = 9;  // each has that index
    const himar::Result ninth = pipeline.generate(mixed);
    holds(ninth.recipe(4), "{\"seed\":18446744073709551615,\"index\":9,\"label\":2,");
    himar::GenerateOptions listed = options_of(labels, 7);
    listed.indices = {0, 1, 2, 3, 4, 5};
    CHECK(values(pipeline.generate(listed).latents()) == values(sevens.latents()));
}

TEST_CASE("a part of a result has its images alone") {
    himar::Pipeline pipeline = load();
    const himar::Result all = pipeline.generate(options_of({3, 0, 4, 1}));
    const himar::Result part = [&] {
        const himar::Result gone = pipeline.generate(options_of({3, 0, 4, 1}));
        return gone.of(1, 2);
    }();
    CHECK(values(part.labels()) == std::vector<std::int64_t>{0, 4});
    for (const std::int64_t image : {0, 1}) {
        CHECK(values(part.images().image(image)) == values(all.images().image(image + 1)));
        CHECK(values(part.latents().image(image)) == values(all.latents().image(image + 1)));
        CHECK(values(part.low_latents().image(image)) == values(all.low_latents().image(image + 1)));
        CHECK(part.recipe(static_cast<std::size_t>(image)) == all.recipe(static_cast<std::size_t>(image + 1)));
    }
    const auto said = [&](std::int64_t first, std::int64_t images) {
        return sentence_of<himar::Error>([&] { all.of(first, images); });
    };
    CHECK(said(3, 2) == "a part of 2 images from number 3 on is asked for; there are 4.");
    for (const auto& [first, images] : {std::pair{-1, 1}, {0, 0}, {4, 1}, {5, 1}, {1, -1}}) holds(said(first, images), "there are 4.");
}

TEST_CASE("settings as text are equal for requests that can run together, and for no others") {
    himar::Pipeline pipeline = load();
    const std::string usual = pipeline.settings(options_of({1}));
    holds(usual, "{\"low_steps\":3,");
    himar::GenerateOptions named = options_of({2, 3}, 99);
    named.first_index = 7;
    named.sampling = "default";
    CHECK(pipeline.settings(named) == usual);
    named.guidance = 2.5;
    CHECK(pipeline.settings(named) != usual);
    named.guidance = -1;
    holds(sentence_of<himar::Error>([&] { pipeline.settings(named); }), "low_guidance is -1.0;");
}

TEST_CASE("every option changes the images") {
    himar::Pipeline pipeline = load();
    const std::vector<float> usual = values(pipeline.generate(options_of({1, 2})).latents());
    const auto differs = [&](const char* what, auto change) {
        himar::GenerateOptions options = options_of({1, 2});
        change(options);
        INFO(what);
        CHECK(values(pipeline.generate(options).latents()) != usual);
    };
    differs("guidance", [](auto& o) { o.guidance = 3.0; });
    differs("no guidance", [](auto& o) { o.guidance = 1.0; });
    differs("low_guidance", [](auto& o) { o.low_guidance = 4.0; });
    differs("high_guidance", [](auto& o) { o.high_guidance = 4.0; });
    differs("temperature", [](auto& o) { o.temperature = 0.5; });
    differs("low_steps", [](auto& o) { o.low_steps = 2; });
    differs("high_steps", [](auto& o) { o.high_steps = 3; });
    differs("low_diffusion_steps", [](auto& o) { o.low_diffusion_steps = 7; });
    differs("high_diffusion_steps", [](auto& o) { o.high_diffusion_steps = 7; });
    differs("guidance_schedule", [](auto& o) { o.guidance_schedule = HIMAR_GUIDANCE_CONSTANT; });
    differs("low_solver", [](auto& o) { o.low_solver = HIMAR_SOLVER_DDIM; });
    differs("high_solver", [](auto& o) { o.high_solver = HIMAR_SOLVER_DPMPP; });
    differs("sampling", [](auto& o) { o.sampling = "plain"; });
    differs("first_index", [](auto& o) { o.first_index = 4294967290u; });
    differs("seeds", [](auto& o) { o.seed = 0, o.seeds = {7, 9}; });
    differs("indices", [](auto& o) { o.indices = {0, 2}; });
}

TEST_CASE("progress counts every step, and the preview fills up") {
    himar::Pipeline pipeline = load();
    himar::GenerateOptions options = options_of({3, 0, 4, 1, 2});
    std::vector<std::int64_t> done, zeros;
    std::vector<float> preview;
    options.on_step = [&](const himar::Progress& step) {
        CHECK(step.total == 10);
        CHECK(step.images == (step.done <= 5 ? 3 : 2));
        CHECK(step.stage == ((step.done - 1) % 5 < 3 ? 0 : 1));
        CHECK(step.stage_name == (step.stage == 0 ? "low" : "high"));
        done.push_back(step.done);
        zeros.push_back(std::count(step.preview_latents.begin(), step.preview_latents.end(), 0.0f));
        if (step.done == 5) preview = values(step.preview_latents);
        return true;
    };
    const himar::Result result = pipeline.generate(options);
    CHECK(done == std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10});
    CHECK(zeros[0] > zeros[1]);
    CHECK(zeros[2] == 0);
    CHECK(std::equal(preview.begin(), preview.end(), result.low_latents().begin()));
    options.on_step = nullptr;
    CHECK(values(pipeline.generate(options).latents()) == values(result.latents()));
}

TEST_CASE("cancelling keeps the chunks that were finished") {
    himar::Pipeline pipeline = load();
    const himar::Result whole = pipeline.generate(options_of({3, 0, 4, 1, 2}));
    for (const std::int64_t last : {1, 5, 6, 10}) {
        himar::GenerateOptions options = options_of({3, 0, 4, 1, 2});
        options.on_step = [&](const himar::Progress& step) { return step.done < last; };
        const himar::Result result = pipeline.generate(options);
        CHECK(result.cancelled());
        CHECK(result.labels().size() == (last <= 5 ? 0 : 3));
        CHECK(result.images().shape()[0] == (last <= 5 ? 0 : 3));
        CHECK(std::equal(result.images().begin(), result.images().end(), whole.images().begin()));
    }
    CHECK(values(pipeline.generate(options_of({3, 0, 4, 1, 2})).images()) == values(whole.images()));
}

TEST_CASE("what a callback throws comes out of generate, and the pipeline goes on") {
    himar::Pipeline pipeline = load();
    himar::GenerateOptions options = options_of({1});
    options.on_step = [](const himar::Progress&) -> bool { throw std::logic_error("mine"); };
    CHECK_THROWS_WITH_AS(pipeline.generate(options), "mine", std::logic_error);
    CHECK(pipeline.generate(options_of({1})).labels().size() == 1);
}

TEST_CASE("a bundle without a decoder gives latents, and says so of images") {
    himar::Pipeline pipeline = load(bundle("no-decoder"));
    CHECK(pipeline.info().has_decoder == 0);
    const himar::Result result = pipeline.generate(options_of({1}));
    CHECK(result.latents().size() == 32);
    CHECK_THROWS_WITH_AS(result.images(), "this bundle has no VAE decoder, so there are no images; use "
                         "himar_result_latents instead.", himar::Error);
}

TEST_CASE("values that are not finite name the component, the phase and the step") {
    const auto said = [](const std::string& name) {
        himar::Pipeline pipeline = load(bundle("nan-" + name));
        return sentence_of<himar::Error>([&] { pipeline.generate(options_of({1, 2, 3, 4, 0})); });
    };
    CHECK(said("mlp_head") == "mlp_head returned values that are not finite in phase low, step 0; if the bundle is in half "
                              "precision, build mlp_head with fp32 or bf16.");
    holds(said("transformer_low"), "transformer_low returned values that are not finite in phase low, step 0;");
    holds(said("transformer_high"), "transformer_high returned values that are not finite in phase high, step 0;");
    holds(said("dit_head"), "dit_head returned values that are not finite in phase high, step 0;");
    holds(said("vae_decoder"), "vae_decoder returned values that are not finite; if");
}

TEST_SUITE_END();
