// HMAR's scales, settings, plan and manifest, without engines.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bundle/manifest.h"
#include "bundles.h"
#include "error.h"
#include "families/hmar/model.h"
#include "families/hmar/sampling.h"
#include "families/hmar/schedule_text.h"

using namespace himar::core;
using namespace himar::core::hmar;

namespace {

const Scales kReleased{{1, 2, 3, 4, 5, 6, 8, 10, 13, 16}};

// What is said of a manifest's model after `change`.
std::string refusal(const std::function<void(Json&)>& change) {
    const auto array = [](std::vector<std::int64_t> shape) {
        return Json{{"file", "w.bin"}, {"offset", 0}, {"dtype", "float32"}, {"shape", shape}};
    };
    Json model = {{"family", "hmar"}, {"patch_nums", {1, 2, 3}}, {"width", 4}, {"depth", 3}, {"heads", 2}, {"tail", 2},
                  {"classes", 5}, {"vocab", 11}, {"latent_channels", 2}, {"vae_stride", 4},
                  {"codebook", {{"embedding", array({11, 2})}, {"weights", array({4, 2, 2, 3, 3})}, {"biases", array({4, 2})}}}};
    change(model);
    const Json manifest = {{"schema_version", "3.0"}, {"himar_version", "0.1.0"}, {"model", model}, {"sampling", Json::object()}};
    return sentence_of<BundleError>([&] { parse_manifest(manifest.dump(), "manifest.json"); });
}

std::string said_of(const Sampling& sampling) {
    return sentence_of<InputError>([&] {
        sampling.check();
        sampling.check_model(kReleased, 4096);
    });
}

}  // namespace

TEST_SUITE_BEGIN("hmar");

TEST_CASE("convolutions of the released scales, ties going up") {
    std::vector<std::uint32_t> found;
    for (std::size_t scale = 0; scale < kReleased.count(); ++scale) found.push_back(kReleased.convolution(scale));
    CHECK(found == std::vector<std::uint32_t>{0, 0, 1, 1, 1, 2, 2, 3, 3, 3});
    CHECK(kReleased.tokens() == 680);
    CHECK(kReleased.start(9) == 424);
}

TEST_CASE("maps keep a constant, and that of the finest scale is the identity") {
    for (std::size_t scale = 0; scale < kReleased.count(); ++scale) {
        const std::vector<float> down = kReleased.down(scale), up = kReleased.up(scale);
        const auto p = static_cast<std::size_t>(kReleased.sides[scale]);
        for (std::size_t row = 0; row < p; ++row) {
            float sum = 0;
            for (std::size_t column = 0; column < 16; ++column) sum += down[row * 16 + column];
            CHECK(std::fabs(sum - 1) < 1e-6);
        }
        for (std::size_t row = 0; row < 16; ++row) {
            float sum = 0;
            for (std::size_t column = 0; column < p; ++column) sum += up[row * p + column];
            CHECK(std::fabs(sum - 1) < 1e-6);
        }
        if (p == 16)
            for (std::size_t item = 0; item < 256; ++item) {
                CHECK(down[item] == (item % 17 == 0 ? 1.0f : 0.0f));
                CHECK(up[item] == down[item]);
            }
    }
}

TEST_CASE("a plan has a forward for every count, and rows of no class where they are of use") {
    Sampling sampling;
    sampling.guidance = 2;
    sampling.schedule = {{1}, {1, 3}, {1, 1, 2, 5}};
    const std::vector<Forward> forwards = plan(sampling, kReleased);
    REQUIRE(forwards.size() == 14);
    CHECK((forwards[0].halves == 1 && forwards[1].halves == 2 && forwards[2].guidance == 2e-6));
    CHECK((forwards[1].remasked == 3 && forwards[2].remasked == 0 && forwards[2].step == 1));
    CHECK((forwards[3].remasked == 8 && forwards[4].remasked == 7 && forwards[5].remasked == 5));
    CHECK((forwards[13].scale == 9 && forwards[13].guidance == 2));
    sampling.schedule = {};
    sampling.all_scales = true;
    CHECK(plan(sampling, kReleased)[0].halves == 2);
    sampling.guidance = 0;
    for (const Forward& forward : plan(sampling, kReleased)) CHECK(forward.halves == 1);
}

TEST_CASE("settings out of range are refused by name") {
    Sampling sampling;
    sampling.top_p = 0;
    holds(said_of(sampling), "top_p is 0; it must be above 0 and at most 1, where 1 keeps every code.");
    sampling = {};
    sampling.top_k = 5000;
    holds(said_of(sampling), "top_k is 5000, but the model has 4096 codes; ask for 0 (all) to 4096.");
    sampling = {};
    sampling.schedule = {{1}, {1, 2}};
    holds(said_of(sampling), "schedule of scale 1 is [1, 2], which sums to 3, but the scale has 4 cells");
    sampling.schedule = {{1}, {INT64_MAX, INT64_MAX}};
    holds(said_of(sampling), "but the scale has 4 cells");
    sampling.schedule = {{0, 1}};
    holds(said_of(sampling), "schedule of scale 0 is [0, 1], but that scale has no masked steps; give [1].");
    sampling.smooth = true;
    holds(said_of(sampling), "smooth is set, but masked steps are not defined with it");
}

TEST_CASE("a schedule is JSON, of any text something is said") {
    CHECK(schedule_of_text(" [[1], [0,4]] ") == Schedule{{1}, {0, 4}});
    CHECK(schedule_of_text("[]").empty());
    const auto said = [](const std::string& text) { return sentence_of<InputError>([&] { schedule_of_text(text); }); };
    for (const std::string text : {"", "1", "{}", "[[1]", "null", "[[1]] x", "\"[[1]]\""})
        holds(said(text), "give a list of counts for each scale, for example [[1], [1, 3]].");
    holds(said(std::string(1 << 20, '[')), "give a list of counts");
    holds(said("[[1], {}]"), "schedule of scale 1 is {...}; give a list of counts, for example [1, 3].");
    holds(said("[[1], [[1]]]"), "schedule of scale 1 is [1]; it must be a whole number.");
    holds(said("[[1], [1, 0]]"), "schedule of scale 1 is 0; it must be at least 1.");
    holds(said("[[18446744073709551615]]"), "it must be at most 2^63-1.");
}

TEST_CASE("a manifest's model is refused by the key that is wrong") {
    holds(refusal([](Json&) {}), "sampling is empty");
    holds(refusal([](Json& m) { m.erase("heads"); }), "lacks model.heads");
    holds(refusal([](Json& m) { m["vocab"] = 4097; }), "model.vocab is 4097; it must be at most 4096.");
    holds(refusal([](Json& m) { m["tail"] = 4; }), "model.tail is 4; it must be 0 to the depth 3.");
    holds(refusal([](Json& m) { m["patch_nums"] = {1, 3, 2}; }), "sides run from coarse to fine, so none may shrink.");
    holds(refusal([](Json& m) { m["patch_nums"] = {1, 2.5}; }), "every side is a whole number from 1 to 256.");
    holds(refusal([](Json& m) { m["patch_nums"] = std::vector<int>(1025, 1); }), "a model has at most 1024 scales.");
    holds(refusal([](Json& m) { m["patch_nums"] = {1, 256}, m["vae_stride"] = 129; }), "at most 32768 fit.");
    holds(refusal([](Json& m) { m["codebook"]["biases"]["shape"] = {4}; }), "model.codebook.biases.shape is [4]; it must be [4,2].");
    holds(refusal([](Json& m) { m["codebook"]["weights"]["file"] = "/etc/passwd"; }), "leads out of the bundle");
}

TEST_SUITE_END();
