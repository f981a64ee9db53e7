// What lies between the networks must be Python's to the bit, or a seed gives other images.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "api/pipeline.h"
#include "bundles.h"
#include "error.h"
#include "families/hi_mar/chain.h"
#include "families/hi_mar/schedule.h"
#include "queue/host/queue.h"
#include "text.h"

using namespace himar::core;
using namespace himar::core::hi_mar;
using himar::i64;
using himar::u32;

TEST_SUITE_BEGIN("arithmetic");

TEST_CASE("Philox gives the words that its authors published") {
    const auto check = [](u32 c0, u32 c1, u32 c2, u32 c3, himar::u64 key, std::vector<u32> wanted) {
        const himar::Words words = himar::philox(c0, c1, c2, c3, key);
        CHECK(std::vector<u32>(words.word, words.word + 4) == wanted);
    };
    check(0, 0, 0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    check(~0u, ~0u, ~0u, ~0u, ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    check(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0x299f31d0a4093822ull,
          {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("every position is revealed once, whatever the number of steps") {
    for (const std::int64_t positions : {1, 2, 16, 64, 256})
        for (std::int64_t steps = 1; steps <= std::min<std::int64_t>(positions, 40); ++steps) {
            Sampling sampling;
            sampling.low_steps = sampling.high_steps = steps;
            std::int64_t low = 0, high = 0;
            for (const Step& step : plan(sampling, positions, positions)) {
                CHECK(step.revealed >= 1);
                CHECK(step.revealed <= step.masked);
                (step.is_low ? low : high) += step.revealed;
            }
            CHECK(low == positions);
            CHECK(high == positions);
        }
}

TEST_CASE("guidance grows to its scale, or stays at it") {
    CHECK(guidance_at("constant", 2.5, 16, 4) == 2.5);
    CHECK(guidance_at("linear", 1.0, 16, 4) == 1.0);
    CHECK(guidance_at("linear", 3.0, 16, 8) == 2.0);
    CHECK(guidance_at("linear", 3.0, 16, 1) < 3.0);
}

TEST_CASE("a chain's ends are evaluated and every so many-th index between, and which halves run follows a count") {
    using Halves = std::vector<std::int64_t>;
    CHECK(Evaluations{}.halves(5, 1) == Halves(5, 1));
    CHECK(Evaluations{3, 1, 2, 1, 1}.halves(10, 2) == Halves{2, 2, 0, 0, 2, 0, 0, 2, 2, 2});
    CHECK(Evaluations{4, 1, 2, 1, 3}.halves(12, 2) == Halves{1, 1, 0, 0, 0, 2, 0, 0, 0, 1, 1, 2});
    CHECK(Evaluations{4, 1, 2, 1, 3}.halves(12, 1) == Halves{1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1});
    const Halves eighth = Evaluations{8, 1, 8, 3, 1}.halves(250, 2);
    CHECK(std::count(eighth.begin(), eighth.end(), 2) == 41);
    CHECK(std::count(eighth.begin(), eighth.end(), 0) == 209);
}

TEST_CASE("modulations are those of a group's first evaluation, made again where that ran the conditional half alone") {
    using Halves = std::vector<std::int64_t>;
    using Timesteps = std::vector<long long>;
    Evaluations third;
    third.modulation_interval = 3;
    CHECK(third.modulated(Halves(5, 2)) == Halves{0, 2, 0, 0, 2});
    CHECK(third.modulated({1, 2, 1, 2, 1, 2}) == Halves{0, 2, 1, 0, 0, 2});
    CHECK(third.modulated({2, 0, 2, 0, 0, 2, 2}) == Halves{2, 0, 0, 0, 0, 0, 2});
    CHECK(third.held_timesteps({0, 4, 8, 12}, Halves(4, 1)) == Timesteps{0, 12, 12, 12});
    CHECK(third.held_timesteps({0, 4, 8, 12, 16}, {2, 0, 1, 1, 2}) == Timesteps{0, 4, 16, 16, 16});
    CHECK(Evaluations{}.modulated({2, 0, 1}) == Halves{2, 0, 1});
    CHECK(Evaluations{}.held_timesteps({0, 4, 8}, {2, 0, 1}) == Timesteps{0, 4, 8});
}

TEST_CASE("lists say each step's chain and scale, and a scale below the least is none") {
    Sampling sampling;
    sampling.low_steps = 2, sampling.high_steps = 4;
    sampling.high_diffusion_counts = {250, 183, 116, 50};
    sampling.low_guidances = {1.5, 3};
    sampling.high_guidance = 2.5, sampling.least_guidance = 1.2;
    std::vector<std::int64_t> chains, halves;
    for (const Step& step : plan(sampling, 64, 256)) chains.push_back(step.diffusion_steps), halves.push_back(step.halves());
    CHECK(chains == std::vector<std::int64_t>{100, 100, 250, 183, 116, 50});
    CHECK(halves == std::vector<std::int64_t>{2, 2, 1, 2, 2, 2});  // the third would have 1.117
    CHECK(plan(sampling, 64, 256)[1].guidance == 3);
    CHECK(plan(sampling, 64, 256)[2].guidance == 1);
}

TEST_CASE("more steps than positions are refused") {
    Sampling sampling;
    sampling.low_steps = 5;
    sampling.high_steps = 1;
    CHECK(sentence_of<InputError>([&] { plan(sampling, 4, 16); }) ==
          "low_steps is 5, but phase low has only 4 positions; ask for 1 to 4 steps.");
}

TEST_CASE("ranks are a permutation of their own for every image, and index lists follow them") {
    constexpr u32 B = 3, n = 16, K = 2, always = 4, L = always + n, masked = 10, revealed = 3, V = always + n - masked;
    const himar::ImageOrigin origins[B] = {{5, 0, 0}, {5, 1, 0}, {6, 1, 0}};
    himar::StepState state{};
    state.masked = masked;
    state.revealed = revealed;
    std::vector<u32> ranks(B * n), reveal(B * revealed);
    run_on_host(launches::ranks(ranks.data(), origins, 1, B, n));
    for (u32 b = 0; b < B; ++b) CHECK(std::set<u32>(&ranks[b * n], &ranks[b * n] + n).size() == n);
    CHECK(!std::equal(ranks.begin(), ranks.begin() + n, ranks.begin() + n));
    CHECK(!std::equal(ranks.begin() + n, ranks.begin() + 2 * n, ranks.begin() + 2 * n));

    std::vector<i64> visible(2 * B * (K + V)), sources(2 * B * (K + L));
    run_on_host(launches::index_lists(visible.data(), sources.data(), reveal.data(), ranks.data(), &state, B, 2, K, always,
                                      n, L));
    for (u32 b = 0; b < B; ++b)
        for (u32 i = 0; i < revealed; ++i) {
            const u32 rank = ranks[b * n + reveal[b * revealed + i]];
            CHECK(rank < masked);
            CHECK(rank >= masked - revealed);
        }
    for (u32 row = 0; row < 2 * B; ++row) {
        const i64* const sees = &visible[row * (K + V)];
        CHECK(std::is_sorted(sees, sees + K + V));
        for (u32 i = K + always; i < K + V; ++i) {
            const i64 position = sees[i] - row * (K + L) - K - always;
            CHECK(ranks[(row % B) * n + position] >= masked);
        }
        // A masked position comes from the mask tokens, which stand after all encoder outputs.
        for (u32 p = 0; p < n; ++p) {
            const bool is_mask_token = sources[row * (K + L) + K + always + p] >= 2 * B * (K + V);
            CHECK(is_mask_token == (ranks[(row % B) * n + p] < masked));
        }
    }
}

TEST_CASE("a chain runs from almost pure noise to almost none") {
    const Chain chain = build_chain("ddpm", 250);
    CHECK(chain.length() == 250);
    CHECK(chain.timesteps.front() == 0);
    CHECK(chain.timesteps.back() == 999);
    CHECK(std::is_sorted(chain.timesteps.begin(), chain.timesteps.end()));
    CHECK(chain.table[0] > 0.999f);
    CHECK(chain.table[249 * 8] < 1e-3f);
    // What README says of errors that the first reverse step magnifies.
    CHECK(chain.table[249 * 8 + 4] * chain.table[249 * 8 + 3] == doctest::Approx(126).epsilon(0.01));
    CHECK(sentence_of<InputError>([] { build_chain("ddpm", 1); }) ==
          "a chain of 1 diffusion steps was asked for; it must be 2 to 1000.");
    CHECK_THROWS_AS(build_chain("ddpm", 1001), InputError);
}

TEST_CASE("a solver's chain is even between its levels, its orders begin and end at the first, and none adds noise") {
    for (const char* solver : {"ddim", "dpm++"})
        for (const std::int64_t n : {2, 3, 8, 100, 1000}) {
            const Chain chain = build_chain(solver, n);
            REQUIRE(chain.length() == n);
            CHECK(!chain.adds_noise);
            CHECK(std::adjacent_find(chain.timesteps.begin(), chain.timesteps.end(), std::greater_equal<>()) ==
                  chain.timesteps.end());
            const auto at = [&](std::int64_t k, int column) { return chain.table[static_cast<std::size_t>(8 * k + column)]; };
            const auto level = [&](std::int64_t k) { return std::log(at(k, 0) / at(k, 1)); };
            for (std::int64_t k = 0; n <= 8 && k < n; ++k)
                CHECK(level(k) == doctest::Approx(3 - 6.0 * static_cast<double>(k) / static_cast<double>(n - 1)).epsilon(0.02));
            CHECK((at(0, 4) == 0 && at(0, 5) == 1 && at(0, 6) == 0));  // lands on x̂0
            CHECK(at(n - 1, 6) == 0);
            for (std::int64_t k = 1; k < n - 1; ++k) CHECK((at(k, 6) < 0) == (solver == std::string("dpm++")));
            // A state that is all token, or all noise, stays so: the weights keep both levels.
            for (std::int64_t k = 1; k < n; ++k) {
                CHECK(at(k, 4) * at(k, 0) + at(k, 5) + at(k, 6) == doctest::Approx(at(k - 1, 0)));
                CHECK(at(k, 4) * at(k, 1) == doctest::Approx(at(k - 1, 1)));
            }
        }
    CHECK(sentence_of<InputError>([] { build_chain("ddim", 1); }) ==
          "a chain of 1 diffusion steps was asked for; it must be 2 to 1000.");
}

TEST_CASE("the exponential is the double one rounded to float, at its ends too") {
    for (float value = -110.0f; value < 95.0f; value += 0.001f)
        if (himar::exp_float(value) != static_cast<float>(std::exp(static_cast<double>(value)))) FAIL_CHECK(value);
    const float infinity = std::numeric_limits<float>::infinity();
    CHECK(himar::exp_float(infinity) == infinity);
    CHECK(himar::exp_float(-infinity) == 0.0f);
    CHECK(himar::exp_float(-103.9f) > 0.0f);  // subnormal
    CHECK(std::isnan(himar::exp_float(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("chunks are as equal as can be") {
    CHECK(chunk_sizes(10, 4) == std::vector<std::size_t>{4, 3, 3});
    CHECK(chunk_sizes(4, 4) == std::vector<std::size_t>{4});
    CHECK(chunk_sizes(1, 64) == std::vector<std::size_t>{1});
}

TEST_CASE("numbers and text read as Python writes them") {
    CHECK(shown(1.0) == "1.0");
    CHECK(shown(-0.25) == "-0.25");
    CHECK(shown(0.1) == "0.1");
    CHECK(in_quotes("it's\n") == "'it\\'s\\x0a'");
    CHECK(in_quotes(std::string(1000, 'a')).size() < 300);
}

TEST_SUITE_END();
