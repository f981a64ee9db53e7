// Several threads, and many loads after one another: what a service does.
#include <doctest/doctest.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "bundles.h"
#include "himar/himar.hpp"

namespace {

std::vector<std::uint8_t> images_of(himar::Pipeline& pipeline, std::uint64_t seed) {
    himar::GenerateOptions options = options_of({1, 2, 3}, seed);
    options.on_step = [](const himar::Progress& step) { return step.done > 0; };
    return values(pipeline.generate(options).images());
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// Memory of this process, in MB.
double resident() {
    long whole = 0, pages = 0;
    std::ifstream("/proc/self/statm") >> whole >> pages;
    return static_cast<double>(pages) * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6;
}
#endif

}  // namespace

TEST_SUITE_BEGIN("lanes");

TEST_CASE("four lanes at once give what one gives alone, also after the original is gone") {
    constexpr std::size_t lanes = 4, runs = 6;
    auto original = std::make_unique<himar::Pipeline>(load());
    std::vector<std::vector<std::uint8_t>> wanted;
    for (std::size_t i = 0; i < lanes * runs; ++i) wanted.push_back(images_of(*original, i));
    std::vector<himar::Pipeline> clones;
    for (std::size_t i = 0; i < lanes; ++i) clones.push_back(original->clone());
    original.reset();
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (std::size_t lane = 0; lane < lanes; ++lane)
        threads.emplace_back([&, lane] {
            for (std::size_t run = 0; run < runs; ++run)
                if (images_of(clones[lane], lane * runs + run) != wanted[lane * runs + run]) ++wrong;
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
}

TEST_CASE("calls on one pipeline wait for each other, and it is cloned while it generates") {
    himar::Pipeline pipeline = load();
    const auto first = images_of(pipeline, 1), second = images_of(pipeline, 2);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 3; ++thread)
        threads.emplace_back([&, thread] {
            for (int run = 0; run < 4; ++run) {
                if (thread == 2) {
                    himar::Pipeline clone = pipeline.clone();
                    if (images_of(clone, 1) != first) ++wrong;
                } else if (images_of(pipeline, thread == 0 ? 1 : 2) != (thread == 0 ? first : second)) {
                    ++wrong;
                }
            }
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
}

TEST_CASE("an error belongs to the thread that made it") {
    CHECK(himar_pipeline_load("/nowhere/first", nullptr, nullptr) == HIMAR_ERROR_INPUT);
    const std::string mine = himar_last_error();
    std::thread([] {
        CHECK(std::string(himar_last_error()).empty());
        himar_result_recipe(nullptr, 0, nullptr);
        holds(himar_last_error(), "result is NULL");
    }).join();
    CHECK(mine == himar_last_error());
}

TEST_CASE("a hundred loads, generations and frees leave nothing behind") {
    const auto round = [] {
        himar::Pipeline pipeline = load();
        himar::Pipeline clone = pipeline.clone();
        images_of(clone, 3);
    };
    for (int warm = 0; warm < 20; ++warm) round();
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    for (int i = 0; i < 100; ++i) round();  // the leak check at exit looks
#else
    const double before = resident();
    for (int i = 0; i < 100; ++i) round();
    CHECK(resident() - before < 4);
#endif
}

TEST_SUITE_END();
