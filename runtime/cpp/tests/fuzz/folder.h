// A folder made of a fuzzer's bytes, so that they can say what files, links and pipes a bundle has.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

// The bytes before the first unit separator (\x1f) are manifest.json. After each separator comes a kind and a name, a
// line feed, and a content:
//
//     f NAME   a file; folders on the way are made
//     b NAME   a blob of the Hub's cache, where the folder is models--a--b/snapshots/c: a file ../../blobs/NAME
//     l NAME   a link at the top, to the content; "manifest.json" may be one
//     p NAME   a pipe at the top, which nobody writes: whoever opens it hangs
//
// In the manifest, @sha256 NAME@ and @bytes NAME@ stand for those of the file NAME: hashes that a fuzzer cannot guess.
// Beside the folder, and beside the cache's repository, lies "outside", a file that no bundle may lead to. All of it is
// gone with the object.
class Folder {
public:
    explicit Folder(std::string_view bytes);
    ~Folder();
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;

    const std::filesystem::path& path() const { return path_; }    // resolved
    const std::filesystem::path& blobs() const { return blobs_; }  // resolved

private:
    std::filesystem::path beside_, path_, blobs_;
};
