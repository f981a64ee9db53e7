// Which networks split their rows among threads, where they are cut, and what the threads of a pool do.
#include <doctest/doctest.h>

#include <atomic>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "engines/ort/row_parallel.h"

using namespace himar::core;

namespace {

using Names = std::set<std::string>;

ComponentSpec head() {
    ComponentSpec spec;
    spec.name = "mlp_head";
    spec.precision = "fp32";
    spec.inputs = {{"x", "float32", {std::string("rows"), std::int64_t{4}}},
                   {"timestep", "int64", {std::int64_t{1}}},
                   {"condition", "float32", {std::string("rows"), std::int64_t{8}}}};
    spec.outputs = {{"prediction", "float32", {std::string("rows"), std::int64_t{8}}}};
    spec.weight_bytes = 4 << 20;
    return spec;
}

}  // namespace

TEST_SUITE_BEGIN("row_parallel");

TEST_CASE("rows are split where the contract and the size of the weights allow it") {
    CHECK(shared_rows(head()) == Names{"x", "condition", "prediction"});
    CHECK(splits_rows(head()));
    ComponentSpec spec = head();
    spec.weight_bytes = 17 << 20;
    CHECK(!splits_rows(spec));
    spec.weight_bytes.reset();  // bundles from before schema 1.1 do not say
    CHECK(!splits_rows(spec));
    spec = head();
    spec.inputs[2].shape[0] = std::string("others");
    CHECK(!shared_rows(spec));
    spec = head();
    spec.inputs[1].shape[0] = std::string("rows");  // whole numbers may point into other rows
    CHECK(!shared_rows(spec));
    spec = head();
    spec.inputs[0].shape[1] = std::string("rows");
    CHECK(!shared_rows(spec));
    spec = head();
    spec.outputs[0].shape[0] = std::int64_t{3};
    CHECK(!shared_rows(spec));
    spec.outputs.clear();
    CHECK(!shared_rows(spec));
}

TEST_CASE("parts are worth a thread, no more than rows, and small enough for a cache") {
    using Edges = std::vector<std::int64_t>;
    // 2 MOP of a position: 17.5 of them make a part.
    ComponentSpec spec = head();
    spec.weight_bytes = 4'000'000;
    CHECK(cuts(spec, 16, 16, 4) == Edges{0, 16});
    CHECK(cuts(spec, 40, 40, 4) == Edges{0, 20, 40});
    CHECK(cuts(spec, 101, 101, 4) == Edges{0, 25, 50, 75, 101});
    CHECK(cuts(spec, 3, 3 * 256, 4) == Edges{0, 1, 2, 3});
    CHECK(cuts(spec, 16, 16 * 1024, 2).size() == 9);  // 2048 positions each
    spec.precision = "int8";  // four times the weights, and the operations
    CHECK(cuts(spec, 16, 16, 4) == Edges{0, 5, 10, 16});
}

TEST_CASE("every part runs once, whoever runs it, and calls of several threads share a pool") {
    Workers workers(4);
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 3; ++caller)
        callers.emplace_back([&] {
            for (std::size_t round = 1; round < 200; ++round) {
                std::vector<std::atomic<int>> runs(round % 9 + 2);
                workers.run(runs.size(), [&](std::size_t part) { ++runs[part]; });
                for (const auto& each : runs) wrong += each != 1;
            }
        });
    for (std::thread& caller : callers) caller.join();
    CHECK(wrong == 0);
}

TEST_CASE("what a part throws comes out when no other part is under way, and the pool goes on") {
    Workers workers(3);
    std::atomic<int> under_way{0};
    for (int round = 0; round < 50; ++round) {
        CHECK_THROWS_WITH_AS(workers.run(8,
                                         [&](std::size_t part) {
                                             ++under_way;
                                             if (part == 2) {
                                                 --under_way;
                                                 throw std::runtime_error("part 2");
                                             }
                                             --under_way;
                                         }),
                             "part 2", std::runtime_error);
        CHECK(under_way == 0);
    }
    std::atomic<int> runs{0};
    workers.run(5, [&](std::size_t) { ++runs; });
    CHECK(runs == 5);
}

TEST_SUITE_END();
