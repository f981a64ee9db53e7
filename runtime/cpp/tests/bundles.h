// The bundles that write_bundles.py wrote, and copies of them that a test may damage.
#pragma once

#include <doctest/doctest.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "himar/himar.hpp"

using Json = nlohmann::ordered_json;

// Folder of a bundle by name: "tiny", "tiny-text", "no-decoder", "nan-COMPONENT" …
std::filesystem::path bundle(const std::string& name);

// A bundle's pipeline on one thread of the CPU.
inline himar::Pipeline load(const std::filesystem::path& path = bundle("tiny")) {
    return himar::Pipeline::load(path.string(), {"cpu", std::nullopt, 1});
}

inline himar::GenerateOptions options_of(std::vector<std::int64_t> labels, std::uint64_t seed = 7) {
    himar::GenerateOptions options;
    options.labels = std::move(labels);
    options.seed = seed;
    return options;
}

template <class T>
std::vector<T> values(const himar::View<T>& view) {
    return {view.begin(), view.end()};
}

// An empty folder, gone with the object.
class TemporaryFolder {
public:
    TemporaryFolder();
    ~TemporaryFolder();
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;

    const std::filesystem::path& beside() const { return folder_; }

private:
    std::filesystem::path folder_;
};

// A copy of a bundle, which stands `beside` nothing else.
class Copy : public TemporaryFolder {
public:
    explicit Copy(const std::string& name = "tiny");

    const std::filesystem::path& path() const { return path_; }
    void edit(const std::function<void(Json&)>& change) const;  // the manifest

private:
    std::filesystem::path path_;
};

// The sentence of the exception of type E that `call` throws; fails the test when it throws none.
template <class E, class Call>
std::string sentence_of(Call call) {
    try {
        call();
    } catch (const E& error) {
        return error.what();
    }
    FAIL("nothing was thrown");
    return "";
}

// True when `text` holds `part`; doctest shows both when it does not.
inline bool holds(const std::string& text, const std::string& part) {
    INFO("text: ", text);
    INFO("part: ", part);
    const bool found = text.find(part) != std::string::npos;
    CHECK(found);
    return found;
}
