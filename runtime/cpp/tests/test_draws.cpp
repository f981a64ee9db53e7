// Orders and noise that a caller gives: the loop must use exactly these, and refuse what would break it.
#include <doctest/doctest.h>

#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bundles.h"
#include "himar/himar.hpp"
#include "seed_draws.h"

namespace {

// Draws that go wrong in one way.
class BadDraws : public SeedDraws {
public:
    enum class Fault { kTwice, kOutside, kNotFinite, kThrows };
    explicit BadDraws(Fault fault) : SeedDraws(1), fault_(fault) {}

    void order(const himar_order_request& request, std::int64_t* order) override {
        SeedDraws::order(request, order);
        if (fault_ == Fault::kTwice) order[1] = order[0];
        if (fault_ == Fault::kOutside) order[request.positions - 1] = std::numeric_limits<std::int64_t>::max();
    }

    void noise(const himar_noise_request& request, float* noise) override {
        if (fault_ == Fault::kThrows) throw std::out_of_range("no such noise");
        SeedDraws::noise(request, noise);
        if (fault_ == Fault::kNotFinite && request.stage == 1 && request.k == 2)
            noise[0] = std::numeric_limits<float>::quiet_NaN();
    }

private:
    Fault fault_;
};

}  // namespace

TEST_SUITE_BEGIN("draws");

TEST_CASE("a seed's draws, given, make the seed's images to the bit, over chunks and without guidance too") {
    himar::Pipeline pipeline = load();
    for (const double guidance : {2.0, 1.0}) {
        himar::GenerateOptions options = options_of({3, 0, 4, 1, 2}, 0);
        options.first_index = 9;
        options.guidance = guidance;
        SeedDraws draws(41);
        options.draws = &draws;
        const himar::Result given = pipeline.generate(options);
        CHECK(draws.asked > 0);
        options.draws = nullptr;
        options.seed = 41;
        const himar::Result drawn = pipeline.generate(options);
        CHECK(values(given.latents()) == values(drawn.latents()));
        CHECK(values(given.low_latents()) == values(drawn.low_latents()));
        CHECK(values(given.images()) == values(drawn.images()));
        holds(given.recipe(2), "{\"seed\":null,\"index\":11,\"label\":4,");
    }
}

TEST_CASE("draws that would break the loop are refused, and the pipeline goes on") {
    himar::Pipeline pipeline = load();
    const auto said = [&](BadDraws::Fault fault) {
        BadDraws draws(fault);
        himar::GenerateOptions options = options_of({1}, 0);
        options.first_index = 6;
        options.draws = &draws;
        return sentence_of<himar::Error>([&] { pipeline.generate(options); });
    };
    holds(said(BadDraws::Fault::kTwice), "the draws' order of image 6 in phase low has ");
    holds(said(BadDraws::Fault::kTwice), " at place 1; every number from 0 to 3 must stand in it once.");
    holds(said(BadDraws::Fault::kOutside), "has 9223372036854775807 at place 3;");
    CHECK(said(BadDraws::Fault::kNotFinite) ==
          "the draws gave noise that is not finite for phase high, step 0, k = 2.");
    BadDraws draws(BadDraws::Fault::kThrows);
    himar::GenerateOptions options = options_of({1}, 0);
    options.draws = &draws;
    CHECK_THROWS_WITH_AS(pipeline.generate(options), "no such noise", std::out_of_range);
    CHECK(pipeline.generate(options_of({1}, 0)).labels().size() == 1);
}

TEST_CASE("draws beside a seed, of another header or half given are refused before anything runs") {
    himar::Pipeline pipeline = load();
    SeedDraws draws(1);
    himar::GenerateOptions options = options_of({1}, 0);
    options.draws = &draws;
    options.seed = 7;
    CHECK(sentence_of<himar::Error>([&] { pipeline.generate(options); }) ==
          "both seed 7 and draws are given; draws would ignore the seed: give one of them.");
    CHECK(draws.asked == 0);

    const std::int64_t label = 1;
    const auto said = [&](himar_draws given) -> std::string {
        himar_generate_params params;
        himar_generate_params_init(&params);
        params.labels = &label;
        params.label_count = 1;
        params.draws = &given;
        himar_result* result = nullptr;
        CHECK(himar_pipeline_generate(pipeline.get(), &params, &result) == HIMAR_ERROR_INPUT);
        return himar_last_error();
    };
    const auto no_order = [](const himar_order_request*, std::int64_t*, void*) { return 0; };
    const auto no_noise = [](const himar_noise_request*, float*, void*) { return 0; };
    const auto good_order = [](const himar_order_request* request, std::int64_t* order, void*) {
        for (std::int64_t i = 0; i < request->batch * request->positions; ++i) order[i] = i % request->positions;
        return 1;
    };
    holds(said({3, good_order, no_noise, nullptr, nullptr, nullptr}), "himar_draws.struct_size is 3; it must be ");
    CHECK(said({sizeof(himar_draws), nullptr, no_noise, nullptr, nullptr, nullptr}) ==
          "himar_draws.order is NULL; give both functions, or no draws.");
    holds(said({sizeof(himar_draws), good_order, nullptr, nullptr, nullptr, nullptr}), "himar_draws.noise is NULL;");
    CHECK(said({sizeof(himar_draws), no_order, no_noise, nullptr, nullptr, nullptr}) ==
          "the draws gave no order of the 4 low positions; they are of another model or hold other images.");
    CHECK(said({sizeof(himar_draws), good_order, no_noise, nullptr, nullptr, nullptr}) ==
          "the draws gave no noise for phase low, step 0, its initial noise; they are of another model or of other settings.");
}

TEST_SUITE_END();
