// What memory a process may still take, what a bundle is predicted to take, and what is refused; the cases are those of
// tests/runtime/test_memory_available.py and test_memory_room.py.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "bundles.h"
#include "error.h"
#include "machine.h"
#include "memory/available.h"
#include "memory/prediction.h"
#include "memory/room.h"

using namespace himar::core;

namespace {

constexpr std::int64_t kGB = 1000000000, kSwap = std::int64_t{1000000} * 1024, kMachine = std::int64_t{9000000} * 1024;
const std::string kV2 = "30 23 0:26 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n";
const std::string kV1 = "33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";

// The least that a machine's limits leave.
std::int64_t left(const std::string& cgroup, const std::string& mountinfo, const Files& files) {
    const Machine machine(cgroup, mountinfo, files);
    machine.write("proc/meminfo", "MemTotal:  16000000 kB\nMemAvailable:   8000000 kB\nSwapFree:    1000000 kB\n");
    const auto fewer = [](const Available& a, const Available& b) { return a.bytes < b.bytes; };
    const std::vector<Available> found = host_limits(machine.beside());
    return std::min_element(found.begin(), found.end(), fewer)->bytes;
}

// HIMAR_MEMORY_LIMIT while it lives.
class Limit {
public:
    explicit Limit(const std::string& value) { setenv(kMemoryVariable, value.c_str(), 1); }
    ~Limit() { unsetenv(kMemoryVariable); }
    Limit(const Limit&) = delete;
    Limit& operator=(const Limit&) = delete;
};

// The warnings that are given while it lives.
class Warnings {
public:
    Warnings() { himar_set_warning_callback([](const char* text, void* user) { static_cast<Warnings*>(user)->add(text); }, this); }
    ~Warnings() { himar_set_warning_callback(nullptr, nullptr); }
    Warnings(const Warnings&) = delete;
    Warnings& operator=(const Warnings&) = delete;

    std::vector<std::string> said;

private:
    void add(const char* text) { said.emplace_back(text); }
};

// A copy of the tiny bundle whose every component takes 5 MB, and 1 MB more for each image of its runs.
struct Described : Copy {
    explicit Described(const Json& changes = Json::object()) {
        edit([&](Json& manifest) {
            Json entry = {{"loaded", 5000000}, {"images", {1, 4}}, {"runs", {1000000, 4000000}}, {"most", 64}};
            entry.update(changes);
            Json components = Json::object();
            for (const auto& item : manifest["components"].items()) components[item.key()] = entry;
            count = static_cast<double>(components.size());
            manifest["memory"] = {{"by", "a test"}, {"components", components}};
        });
    }

    double count = 0;
};

Prediction predicted(const Copy& copy, std::int64_t images, std::int64_t lanes = 1) {
    return predict(Bundle::open(copy.path()).manifest(), images, lanes, false, "");
}

std::string gigabytes_of(double bytes) { return std::to_string(bytes / 1e9); }

}  // namespace

TEST_SUITE_BEGIN("memory");

TEST_CASE("without control groups the machine's memory and swap count") {
    CHECK(left("", "", {}) == kMachine);
    CHECK(left("0::/\n", kV2, {{"memory.max", "max\n"}, {"memory.current", "5"}}) == kMachine);
    CHECK(left("0::/\n", kV2, {{"memory.max", "much"}, {"memory.current", "0"}}) == kMachine);
}

TEST_CASE("the smallest limit of version 2 counts") {
    CHECK(left("0::/\n", kV2, {{"memory.max", "4000000000\n"}, {"memory.current", "1000000000\n"}, {"memory.swap.max", "0\n"}}) ==
          3 * kGB);
    CHECK(left("0::/\n", kV2,
               {{"memory.max", "4000000000"}, {"memory.current", "1000000000"},
                {"memory.stat", "anon 3\ninactive_file 500000000\n"}, {"memory.swap.max", "0"}}) == 3500000000);
    CHECK(left("0::/\n", kV2,
               {{"memory.max", "1000000000"}, {"memory.current", "1000000000"}, {"memory.swap.max", "300"},
                {"memory.swap.current", "100"}}) == 200);
    CHECK(left("0::/pod/box\n", kV2,
               {{"pod/memory.max", "2000000000"}, {"pod/memory.current", "0"}, {"pod/memory.swap.max", "0"},
                {"pod/box/memory.max", "max"}, {"pod/box/memory.current", "0"}}) == 2 * kGB);
    CHECK(left("0::/\n", kV2, {{"memory.max", "5"}, {"memory.current", "1000000000"}, {"memory.swap.max", "0"}}) == 0);
}

TEST_CASE("a limit of version 1 counts") {
    CHECK(left("4:memory:/\n", kV1,
               {{"memory/memory.limit_in_bytes", "1000000000"}, {"memory/memory.usage_in_bytes", "1000"},
                {"memory/memory.stat", "total_inactive_file 200\n"}}) == kGB - 800 + kSwap);
    CHECK(left("4:memory:/\n", kV1,
               {{"memory/memory.limit_in_bytes", "9223372036854771712"}, {"memory/memory.usage_in_bytes", "0"}}) == kMachine);
    CHECK(left("4:cpu:/\n", kV1, {{"memory/memory.limit_in_bytes", "5"}, {"memory/memory.usage_in_bytes", "0"}}) == kMachine);
}

TEST_CASE("a limit of the address space counts") {
    const Machine machine("", "", {});
    machine.write("proc/self/limits", "Limit      Soft  Hard Units\nMax address space   4096000 unlimited bytes\n");
    machine.write("proc/self/status", "Name:\tpython\nVmSize:\t    3000 kB\n");
    const auto found = available_memory({}, machine.beside());
    REQUIRE(found);
    CHECK(found->bytes == 4096000 - 3000 * 1024);
    CHECK(found->of == "ulimit -v");
    machine.write("proc/self/limits", "Max address space   unlimited unlimited bytes\n");
    CHECK(!available_memory({}, machine.beside()));
}

TEST_CASE("nothing is known of a system without proc, and this machine has memory") {
    const TemporaryFolder none;
    CHECK(!available_memory({}, none.beside()));
    const auto found = available_memory({});
    REQUIRE(found);
    CHECK(found->bytes > 1000000);
}

TEST_CASE("the variable limits and switches off") {
    {
        const Limit limit("0.25");
        const auto found = available_memory({});
        REQUIRE(found);
        CHECK(found->bytes == 250000000);
        CHECK(found->of == "HIMAR_MEMORY_LIMIT");
    }
    const Limit limit("none");
    CHECK(!available_memory({}));
}

TEST_CASE("a wrong variable is refused") {
    for (const char* const value : {"much", "-1", "1e9", "nan", "1.", ".5", "1234567", "1.1234567890"}) {
        const Limit limit(value);
        CHECK(sentence_of<InputError>([] { available_memory({}); }) ==
              std::string("HIMAR_MEMORY_LIMIT is '") + value +
                  "'; it must be the GB of memory to count on, such as 1.5, or none for no check.");
    }
}

TEST_CASE("runs lie on a straight line up to the largest call") {
    const Measured measured{100, {1, 4}, {10, 40}, 8};
    for (const auto& [images, bytes] : std::vector<std::pair<int, double>>{{1, 10}, {2, 20}, {4, 40}, {8, 80}, {64, 80}})
        CHECK(measured.run(images) == bytes);
    CHECK(Measured{100, {1}, {10}, 1}.run(1) == 10);
    CHECK(Measured{100, {1, 4}, {10, 10}, 64}.run(64) == 10);
    CHECK(Measured{0, {1, 4}, {10, 5}, 64}.run(3) == 10);    // never less than fewer take
    CHECK(Measured{0, {4, 8}, {3, 5}, 64}.run(3) == 2);      // Python's // towards smaller numbers
    const std::int64_t most = INT64_MAX;
    CHECK(Measured{0, {1, 2}, {0, most}, most}.run(most) > 1e37);
}

TEST_SUITE_END();

TEST_SUITE_BEGIN("memory_room");

TEST_CASE("lanes share what is loaded and run for themselves") {
    const Described copy;
    const Prediction found = predicted(copy, 2, 3);
    CHECK(found.loaded == copy.count * 5e6);
    CHECK(found.runs == 3 * copy.count * 2e6);
}

TEST_CASE("wrong figures are refused, where anyone asks for them") {
    for (const Json& wrong : {Json{{"loaded", -1}}, Json{{"images", Json::array()}}, Json{{"images", {4, 1}}}, Json{{"runs", {1}}},
                              Json{{"images", {0, 4}}}, Json{{"runs", {1, 0.5}}}}) {
        const Described copy(wrong);
        holds(sentence_of<BundleError>([&] { predicted(copy, 1); }),
              "it must give bytes once loaded, and those of runs of rising numbers of images; build the bundle again.");
        const Limit limit("none");
        load(copy.path());
    }
}

TEST_CASE("a bundle without room is not loaded") {
    const Described copy;
    const Limit limit("0.001");
    const std::string sentence = sentence_of<himar::Error>([&] { load(copy.path()); });
    holds(sentence, " of memory (weights ");
    holds(sentence, ", runs of 1 image ");
    holds(sentence, "), and HIMAR_MEMORY_LIMIT has 1.0 MB left; use a bundle built with --int8, or set HIMAR_MEMORY_LIMIT=none "
                    "to try all the same.");
}

TEST_CASE("where it is tight it is loaded with a warning, and where there is room nothing is said") {
    const Described copy;
    Warnings warnings;
    {
        const Limit limit(gigabytes_of(predicted(copy, 1).total() / 1.1));
        load(copy.path());
    }
    REQUIRE(warnings.said.size() == 2);
    holds(warnings.said[0], ": it may just fit");
    holds(warnings.said[1], "left: generate fewer at once");
    const Limit limit(gigabytes_of(1.3 * predicted(copy, 1 << 20).total()));
    load(copy.path()).clone();
    CHECK(warnings.said.size() == 2);
}

TEST_CASE("a lane without room is refused, but for those that were counted") {
    const Described copy;
    const himar::Pipeline pipeline = himar::Pipeline::load_lanes(copy.path().string(), {"cpu", std::nullopt, 1}, 2, 1).first;
    const Limit limit("0.001");
    const himar::Pipeline counted = pipeline.clone();
    const std::string sentence = sentence_of<himar::Error>([&] { counted.clone(); });
    CHECK(sentence.rfind("another lane of ", 0) == 0);
    holds(sentence, "left; use fewer lanes, or set HIMAR_MEMORY_LIMIT=none to try all the same.");
}

TEST_CASE("the largest batch that fits is taken, and said where it is not the bundle's") {
    const Described copy;
    const std::int64_t most = Bundle::open(copy.path()).manifest().max_batch;
    REQUIRE(most > 2);
    Warnings warnings;
    const auto taken = [&](double bytes) {
        const Limit limit(gigabytes_of(bytes));
        return himar::Pipeline::load_lanes(copy.path().string(), {"cpu", std::nullopt, 1}, 2).second;
    };
    CHECK(taken(predicted(copy, most, 2).total() / 0.89) == most);
    CHECK(warnings.said.empty());
    CHECK(taken(predicted(copy, 2, 2).total() / 0.89) == 2);
    REQUIRE(warnings.said.size() == 1);
    holds(warnings.said[0], " runs in batches of at most 2, not of " + std::to_string(most) + ": those need about ");
    holds(warnings.said[0], " of memory in 2 lanes, and HIMAR_MEMORY_LIMIT has ");
    holds(sentence_of<himar::Error>([&] { taken(predicted(copy, 1, 2).total() / 1.3); }), "runs of 1 image in 2 lanes ");
}

TEST_CASE("lanes and batches of no sense are refused") {
    const auto sentence = [](std::int64_t lanes, std::int64_t batch) {
        return sentence_of<himar::Error>([&] { himar::Pipeline::load_lanes(bundle("tiny").string(), {}, lanes, batch); });
    };
    CHECK(sentence(0, 1) == "lanes is 0; it must be 1 to 65536.");
    CHECK(sentence(1, -1) == "batch is -1; it must be a number of images, or 0 for the largest for which there is room.");
    holds(sentence(1, 1 << 21), "batches of 2097152 images are asked for, but this bundle's engines take at most ");
}

TEST_SUITE_END();
