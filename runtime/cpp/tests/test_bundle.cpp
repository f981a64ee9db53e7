// A damaged, moved or hostile bundle must be refused before anything in it is loaded.
#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "bundle/bundle.h"
#include "bundle/sha256.h"
#include "bundles.h"
#include "error.h"

using namespace himar::core;
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

std::string refusal(const fs::path& path) {
    return sentence_of<BundleError>([&] { Bundle::open(path); });
}

}  // namespace

TEST_SUITE_BEGIN("bundle");

TEST_CASE("a good bundle opens with an id that follows its manifest") {
    const Copy copy;
    const Bundle before = Bundle::open(copy.path());
    CHECK(before.id().size() == 64);
    CHECK(fs::is_regular_file(before.path("mlp_head.onnx")));
    copy.edit([](Json& m) { m["himar_version"] = "9"; });
    CHECK(Bundle::open(copy.path()).id() != before.id());
}

TEST_CASE("no folder, no manifest") {
    const Copy copy;
    holds(refusal(copy.beside() / "nowhere"), "nowhere is not a folder; give a bundle that `himar-export build` wrote.");
    fs::remove(copy.path() / "manifest.json");
    holds(refusal(copy.path()), "has no manifest.json, so it is no bundle");
}

TEST_CASE("missing, truncated and changed files") {
    const Copy copy;
    const fs::path file = copy.path() / "dit_head.onnx";
    std::fstream(file, std::ios::in | std::ios::out | std::ios::binary).seekp(40).put('!');
    holds(refusal(copy.path()), "dit_head.onnx");
    holds(refusal(copy.path()), "does not have the manifest's sha256: it is damaged");
    const auto size = fs::file_size(file);
    fs::resize_file(file, size - 7);
    holds(refusal(copy.path()), std::to_string(size - 7) + " bytes where the manifest says " + std::to_string(size));
    fs::remove(file);
    holds(refusal(copy.path()), "lacks its file dit_head.onnx; copy the bundle again.");
    fs::create_directory(file);
    holds(refusal(copy.path()), "lacks its file dit_head.onnx");
}

TEST_CASE("links that lead out are refused, also through folders and in circles; links inside are fine") {
    const Copy copy;
    const fs::path file = copy.path() / "dit_head.onnx", outside = copy.beside() / "outside.onnx";
    fs::rename(file, copy.path() / "real.onnx");
    fs::create_symlink("real.onnx", file);
    fs::create_directory_symlink(copy.path(), copy.beside() / "link");
    CHECK(Bundle::open(copy.beside() / "link").root() == fs::canonical(copy.path()));

    fs::rename(copy.path() / "real.onnx", outside);
    fs::remove(file);
    fs::create_symlink(outside, file);
    holds(refusal(copy.path()), "dit_head.onnx");
    holds(refusal(copy.path()), "is a link that leads out of the bundle");

    fs::remove(file);
    fs::create_symlink("dit_head.onnx", file);
    CHECK(!refusal(copy.path()).empty());

    fs::remove(file);
    fs::create_directory_symlink(copy.beside(), copy.path() / "folder");
    copy.edit([](Json& m) {
        m["files"]["folder/outside.onnx"] = m["files"]["dit_head.onnx"];
        m["files"].erase("dit_head.onnx");
        m["components"]["dit_head"]["file"] = m["components"]["dit_head"]["engine"]["file"] = "folder/outside.onnx";
    });
    holds(refusal(copy.path()), "folder/outside.onnx");
}

TEST_CASE("a manifest that is a link is followed inside only") {
    const Copy copy;
    const fs::path manifest = copy.path() / "manifest.json", outside = copy.beside() / "outside.json";
    fs::rename(manifest, copy.path() / "real.json");
    fs::create_symlink("real.json", manifest);
    CHECK(Bundle::open(copy.path()).id().size() == 64);
    fs::rename(copy.path() / "real.json", outside);
    fs::remove(manifest);
    fs::create_symlink(outside, manifest);
    holds(refusal(copy.path()), "manifest.json in ");
    holds(refusal(copy.path()), "is a link that leads out of the bundle; refusing to load it.");
    fs::remove(manifest);
    fs::create_symlink("manifest.json", manifest);
    holds(refusal(copy.path()), "manifest.json in ");
}

TEST_CASE("a folder whose name starts with the bundle's is outside") {
    const Copy copy;
    const fs::path sibling = copy.path().string() + "-2";
    fs::create_directory(sibling);
    fs::rename(copy.path() / "dit_head.onnx", sibling / "dit_head.onnx");
    fs::create_symlink(sibling / "dit_head.onnx", copy.path() / "dit_head.onnx");
    holds(refusal(copy.path()), "is a link that leads out of the bundle");
}

TEST_CASE("a file that cannot be read is no crash") {
    const Copy copy;
    fs::permissions(copy.path() / "dit_head.onnx", fs::perms::none);
    if (::access((copy.path() / "dit_head.onnx").c_str(), R_OK) == 0) return;  // root reads everything
    holds(refusal(copy.path()), "dit_head.onnx cannot be read: ");
}

TEST_CASE("SHA-256 is SHA-256") {
    CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_SUITE_END();
