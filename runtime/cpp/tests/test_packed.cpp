// Graphs kept with packed weights: equal bits, found again, never trusted when damaged, removed when others need the room.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "bundles.h"
#include "engines/networks.h"
#include "engines/ort/entries.h"
#include "engines/ort/packed.h"
#include "error.h"

using namespace himar::core;
namespace fs = std::filesystem;

namespace {

// A variable of the environment, which has its value as long as the object lives.
class Variable {
public:
    Variable(const char* name, const std::string& value) : name_(name) { setenv(name, value.c_str(), 1); }
    ~Variable() { unsetenv(name_); }
    Variable(const Variable&) = delete;
    Variable& operator=(const Variable&) = delete;

private:
    const char* name_;
};

// An empty cache, and graphs kept in it.
class Cache : public TemporaryFolder {
public:
    fs::path folder() const { return beside() / "himar" / "onnxruntime"; }

    // Names of entries, or of everything that is there.
    std::set<std::string> names(bool entries_only = true) const {
        std::set<std::string> found;
        if (fs::exists(folder()))
            for (const auto& each : fs::directory_iterator(folder()))
                if (!entries_only || fs::exists(each.path() / kEntry)) found.insert(each.path().filename().string());
        return found;
    }

private:
    Variable where_{"XDG_CACHE_HOME", beside().string()}, keeps_{"HIMAR_ORT_PACKED", "1"};
};

std::vector<float> latents(const fs::path& path) {
    himar::Pipeline pipeline = load(path);
    return values(pipeline.generate(options_of({1, 2})).latents());
}

void flip_a_bit(const fs::path& path, std::streamoff place) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(place);
    const auto byte = static_cast<char>(file.get() ^ 1);
    file.seekp(place).put(byte);
}

// An entry of 1,000 bytes that was last used at a time.
fs::path write_entry(const fs::path& root, char digit, std::time_t used) {
    const fs::path folder = root / std::string(32, digit);
    fs::create_directories(folder);
    std::ofstream(folder / kEntry) << std::string(100, 'x');
    std::ofstream(folder / "weights.bin") << std::string(900, 'x');
    const timespec times[2] = {{used, 0}, {used, 0}};
    REQUIRE(utimensat(AT_FDCWD, (folder / kEntry).c_str(), times, 0) == 0);
    return folder;
}

}  // namespace

TEST_SUITE_BEGIN("packed");

TEST_CASE("bits are equal, and a second load makes nothing") {
    const std::vector<float> expected = latents(bundle("tiny"));
    const Cache cache;
    CHECK(latents(bundle("tiny")) == expected);
    const std::set<std::string> made = cache.names(false);
    CHECK(made.size() == 5);
    CHECK(made == cache.names());
    struct stat before, after;
    REQUIRE(stat(cache.folder().c_str(), &before) == 0);
    CHECK(latents(bundle("tiny")) == expected);
    REQUIRE(stat(cache.folder().c_str(), &after) == 0);
    CHECK(before.st_mtim.tv_sec == after.st_mtim.tv_sec);
    CHECK(before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
}

TEST_CASE("nothing is kept unless it is asked for, and variables are checked") {
    const Cache cache;
    for (const char* value : {"", "0"}) {
        const Variable keeps("HIMAR_ORT_PACKED", value);
        latents(bundle("tiny"));
    }
    CHECK(cache.names(false).empty());
    {
        const Variable keeps("HIMAR_ORT_PACKED", "yes");
        CHECK(sentence_of<InputError>([] { keeps_packed(); }) ==
              "HIMAR_ORT_PACKED is 'yes'; it must be 1 to keep graphs with packed weights, or 0.");
    }
    for (const std::string value : {"1.5", "-1", "many", "1000000"}) {
        const Variable limit("HIMAR_ORT_PACKED_GIB", value);
        CHECK(sentence_of<InputError>([] { keeps_packed(); }) ==
              "HIMAR_ORT_PACKED_GIB is '" + value + "'; it must be a whole number from 0 to 999999, the GiB of disk that graphs "
              "with packed weights may take.");
    }
}

TEST_CASE("damaged entries are made again") {
    const std::vector<float> expected = latents(bundle("tiny"));
    const Cache cache;
    latents(bundle("tiny"));
    const std::set<std::string> made = cache.names();
    for (const char* file : {"graph.onnx", "entry.json"}) {
        for (const std::string& name : made) flip_a_bit(cache.folder() / name / file, 0);
        CHECK(latents(bundle("tiny")) == expected);
        CHECK(cache.names(false) == made);
    }
    for (const std::string& name : made) fs::remove(cache.folder() / name / "weights.bin");
    CHECK(latents(bundle("tiny")) == expected);
    for (const std::string& name : made) CHECK(fs::exists(cache.folder() / name / "weights.bin"));
}

TEST_CASE("files of a bundle are hashed before they are read, and not where an entry is used") {
    const Copy copy;
    const std::vector<float> expected = latents(copy.path());
    const Cache cache;
    latents(copy.path());
    flip_a_bit(copy.path() / "dit_head.onnx", 40);
    CHECK(latents(copy.path()) == expected);
    const auto refused = [&](const auto& call) {
        holds(sentence_of<BundleError>(call), "dit_head.onnx in ");
        holds(sentence_of<BundleError>(call), "does not have the manifest's sha256: it is damaged");
    };
    refused([&] { Bundle::open(copy.path()); });
    const Bundle opened = Bundle::open(copy.path(), true);
    CHECK(fs::is_regular_file(opened.place("dit_head.onnx")));
    CHECK(fs::is_regular_file(opened.path("mlp_head.onnx")));
    refused([&] { opened.path("dit_head.onnx"); });
    refused([&] { opened.path("./dit_head.onnx"); });
    fs::remove_all(cache.folder());
    const LoadRequest request{"cpu", "", 1};
    refused([&] { load_networks(open_bundle(copy.path(), request), request); });
    for (const std::string& name : cache.names(false)) CHECK(name.size() == 32);  // nothing unfinished
}

TEST_CASE("where nothing can be kept the bundle's own graphs are loaded, after their hashes") {
    const Copy copy;
    const std::vector<float> expected = latents(copy.path());
    const Cache cache;
    fs::create_directories(cache.folder().parent_path());
    std::ofstream(cache.folder()) << "a file where the folder would be";
    CHECK(latents(copy.path()) == expected);
    flip_a_bit(copy.path() / "dit_head.onnx", 40);
    const LoadRequest request{"cpu", "", 1};
    holds(sentence_of<BundleError>([&] { load_networks(open_bundle(copy.path(), request), request); }), "it is damaged");
}

TEST_CASE("a graph's content names what its weights may be in, and another is another entry") {
    const Bundle opened = Bundle::open(bundle("tiny"));
    const GraphContent head = content_of(opened, "mlp_head.onnx");
    REQUIRE(!head.hashes.empty());
    CHECK(head.hashes.front() == opened.manifest().files.at("mlp_head.onnx").sha256);
    CHECK_NOTHROW(head.check());
    const std::string cpu = cpu_facts();
    const std::set<fs::path> folders = {packed_folder(head.hashes, cpu), packed_folder(head.hashes, cpu + " avx999"),
                                        packed_folder(content_of(opened, "dit_head.onnx").hashes, cpu)};
    CHECK(folders.size() == 3);
}

TEST_CASE("what is read of the CPUs does not depend on their count") {
    const TemporaryFolder folder;
    const std::string one = "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: avx avx2\ncpu MHz\t\t: 2400\n\n";
    std::ofstream(folder.beside() / "one") << one;
    std::ofstream(folder.beside() / "two") << one << one;
    std::ofstream(folder.beside() / "none") << "processor : 0\n";
    const std::string found = cpu_facts(folder.beside() / "one");
    holds(found, "\nflags avx avx2\nmodel name A CPU");
    CHECK(cpu_facts(folder.beside() / "two") == found);
    CHECK(cpu_facts(folder.beside() / "none").empty());
    CHECK(cpu_facts(folder.beside() / "nowhere").empty());
}

TEST_CASE("the least recently used entries go until the rest fits") {
    for (const auto& [most, left] : std::vector<std::pair<int, std::size_t>>{{4000, 4}, {3999, 3}, {2000, 2}, {0, 0}}) {
        const TemporaryFolder root;
        const std::string digits = "cadb";  // in the order of their use, the last first
        for (const auto& [digit, used] : {std::pair('a', 30), {'b', 10}, {'c', 40}, {'d', 20}})
            write_entry(root.beside(), digit, used);
        remove_oldest_entries(root.beside(), static_cast<std::uintmax_t>(most));
        CHECK(std::distance(fs::directory_iterator(root.beside()), fs::directory_iterator()) == static_cast<long>(left));
        for (std::size_t i = 0; i < left; ++i) CHECK(fs::exists(root.beside() / std::string(32, digits[i])));
    }
}

TEST_CASE("an entry that is used stays, and what killed processes left goes") {
    const TemporaryFolder root;
    const fs::path used = write_entry(root.beside(), 'a', 5), unused = write_entry(root.beside(), 'b', 6);
    fs::create_directory(root.beside() / ("." + std::string(32, 'c') + ".0123abcd"));
    fs::create_directory(root.beside() / "others");
    {
        const std::optional<OpenFile> held = use_entry(used);
        REQUIRE(held.has_value());
        remove_oldest_entries(root.beside(), 0);
        CHECK(fs::exists(used));
        CHECK(!fs::exists(unused));
        CHECK(std::distance(fs::directory_iterator(root.beside()), fs::directory_iterator()) == 2);
        struct stat facts;
        REQUIRE(stat((used / kEntry).c_str(), &facts) == 0);
        CHECK(std::time(nullptr) - facts.st_mtim.tv_sec < 60);
    }
    remove_oldest_entries(root.beside(), 0);
    CHECK(!fs::exists(used));
    CHECK(fs::exists(root.beside() / "others"));
    CHECK(!use_entry(used).has_value());
}

TEST_CASE("a pipeline and its clones keep their entries") {
    const Cache cache;
    const Variable limit("HIMAR_ORT_PACKED_GIB", "0");
    {
        const himar::Pipeline lane = [] { return load().clone(); }();
        remove_oldest_entries(cache.folder(), 0);
        CHECK(cache.names().size() == 5);
    }
    remove_oldest_entries(cache.folder(), 0);
    CHECK(cache.names(false).empty());
}

TEST_CASE("who makes an entry second waits, and says so when it is too long") {
    const TemporaryFolder root;
    const fs::path folder = root.beside() / std::string(32, 'a');
    int made = 0;
    making_entry(folder, [&] {
        CHECK(sentence_of<EngineError>([&] { making_entry(folder, [&] { ++made; }, 0.1); }) ==
              "another process has been at it for 0.1 s");
    });
    making_entry(folder, [&] { ++made; }, 0);
    CHECK(made == 1);
    CHECK(fs::is_empty(root.beside()));
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&] {
            for (int round = 0; round < 20; ++round) making_entry(folder, [&] { ++made; });
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(made == 81);  // one at a time
}

TEST_CASE("a folder appears whole or not at all") {
    const TemporaryFolder root;
    const fs::path target = root.beside() / std::string(32, 'a');
    CHECK_THROWS_AS(make_folder(target, [](const fs::path& path) {
                        std::ofstream(path / "file") << "x";
                        throw EngineError("no");
                    }), EngineError);
    CHECK(fs::is_empty(root.beside()));
    make_folder(target, [](const fs::path& path) { std::ofstream(path / "file") << "x"; });
    CHECK(fs::file_size(target / "file") == 1);
}

TEST_SUITE_END();
