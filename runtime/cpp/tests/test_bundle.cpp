// A damaged, moved or hostile bundle must be refused before anything in it is loaded.
#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "api/pipeline.h"
#include "bundle/bundle.h"
#include "bundle/sha256.h"
#include "bundles.h"
#include "error.h"

using namespace himar::core;
namespace fs = std::filesystem;

namespace {

std::string refusal(const fs::path& path) {
    return sentence_of<BundleError>([&] { Bundle::open(path); });
}

// Put a link in place of a file, if there is one.
void relink(const fs::path& file, const fs::path& target) {
    fs::remove(file);
    fs::create_symlink(target, file);
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
    holds(refusal(copy.path()), "has no manifest.json, so it is not a bundle");
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
    relink(file, outside);
    holds(refusal(copy.path()), "dit_head.onnx");
    holds(refusal(copy.path()), "is a link that leads out of the bundle");

    relink(file, "dit_head.onnx");
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
    relink(manifest, outside);
    holds(refusal(copy.path()), "manifest.json in ");
    holds(refusal(copy.path()), "is a link that leads out of the bundle; refusing to load it: copy");
    relink(manifest, "manifest.json");
    holds(refusal(copy.path()), "manifest.json in ");
}

TEST_CASE("a bundle in the Hub's cache is links to the blobs of its own repository") {
    const Copy copy;
    const fs::path repository = copy.beside() / "models--me--digits", snapshot = repository / "snapshots" / "abc" / "below";
    const fs::path blobs = repository / "blobs";
    fs::create_directories(snapshot);
    fs::create_directories(blobs);
    for (const auto& entry : fs::directory_iterator(copy.path())) {
        const fs::path blob = blobs / sha256_of_file(entry.path());
        fs::rename(entry.path(), blob);
        fs::create_symlink(fs::relative(blob, snapshot), snapshot / entry.path().filename());
    }
    CHECK(Bundle::open(snapshot).path("mlp_head.onnx") == fs::canonical(snapshot) / "mlp_head.onnx");
    const auto pipeline = himar::core::Pipeline::load(snapshot, {});
    CHECK(pipeline->bundle().id().size() == 64);

    const auto refused = [&](const std::string& name, const fs::path& target) {
        const fs::path link = snapshot / name, blob = fs::canonical(link);
        fs::create_directories(target.parent_path());
        fs::rename(blob, target);
        relink(link, target);
        holds(refusal(snapshot), name + " in ");
        holds(refusal(snapshot), "leads out of the bundle; refusing to load it: copy the bundle with real files (cp -rL), or "
                                 "download it again with local_dir.");
        fs::rename(target, blob);
        relink(link, fs::relative(blob, fs::canonical(snapshot)));
    };
    for (const char* const name : {"manifest.json", "dit_head.onnx"})
        for (const char* const place : {"outside", "models--me--digits/refs/main", "models--me--digits/blobs/deep/er",
                                        "models--me--digits/blobs-2/blob", "models--me--other/blobs/blob"})
            refused(name, copy.beside() / place);
    CHECK(Bundle::open(snapshot).id().size() == 64);

    const fs::path blob = fs::canonical(snapshot / "dit_head.onnx");
    std::fstream(blob, std::ios::in | std::ios::out | std::ios::binary).seekp(40).put('!');
    holds(refusal(snapshot), "dit_head.onnx in ");
    holds(refusal(snapshot), "does not have the manifest's sha256");
    fs::rename(blob, copy.beside() / "outside.onnx");
    fs::create_symlink(copy.beside() / "outside.onnx", blob);  // a blob that is a link itself
    holds(refusal(snapshot), "leads out of the bundle");

    for (const char* const name : {"digits", "models--", "my-models--me--digits"}) {
        const fs::path other = copy.beside() / name;
        fs::rename(repository, other);
        holds(refusal(other / "snapshots" / "abc" / "below"), "leads out of the bundle");
        fs::rename(other, repository);
    }
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
