// Opening a bundle: its manifest is read, its files are hashed, all at once or each before it is read.
//
// Links must stay in the bundle's folder, or lead to the blobs of the Hub's local cache where the folder is a snapshot in
// it: models--OWNER--NAME/snapshots/REVISION links to models--OWNER--NAME/blobs.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "bundle/manifest.h"

namespace himar::core {

class Bundle {
public:
    // Read the manifest at `path` and verify the size and hash of every file it names. BundleError: no folder or
    // manifest, a newer schema, a path that leads out of the bundle, a missing or changed file.
    // hash_when_read: compare a file's hash before it is read, so that files which nobody reads cost nothing.
    static Bundle open(const std::filesystem::path& path, bool hash_when_read = false);

    const std::filesystem::path& root() const { return root_; }  // resolved
    const Manifest& manifest() const { return manifest_; }
    const std::string& id() const { return id_; }  // SHA-256 of the manifest, which names the whole bundle

    // The path of a file of the bundle to read it; BundleError if it leads outside or is damaged.
    std::filesystem::path path(const std::string& relative) const;

    // The path of a file that is not read yet, by the bundle's own names; BundleError if it leads outside. A graph looks for
    // its weights beside itself by their name there, which the target of a link need not have.
    std::filesystem::path place(const std::string& relative) const;

    // Compare the hashes of files that are about to be read, unless they were; BundleError where one differs.
    void check(const std::vector<std::string>& names) const;

    // The floats of an array in one of its files; BundleError where they are not there.
    std::vector<float> floats(const ArrayEntry& entry) const;

    // The floats of this shape that a file holds alone; `key` is the manifest's that names it. BundleError where it is not
    // the file whose hash was checked, or has another size.
    std::vector<float> floats(const HashedFile& entry, const std::vector<std::int64_t>& shape, const std::string& key) const;

private:
    Bundle(std::filesystem::path root, Manifest manifest, std::string id);
    void verify_sizes() const;
    std::vector<std::string> all_files() const;

    // Files whose hash was not compared yet. Copies of a bundle share it.
    struct Unread {
        std::mutex lock;
        std::set<std::string> names;
    };

    std::filesystem::path root_;
    Manifest manifest_;
    std::string id_;
    std::shared_ptr<Unread> unread_ = std::make_shared<Unread>();
};

}  // namespace himar::core
