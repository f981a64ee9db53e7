// Opening a bundle: its manifest is read, its files are hashed, nothing is loaded yet.
#pragma once

#include <filesystem>
#include <string>

#include "bundle/manifest.h"

namespace himar::core {

class Bundle {
public:
    // Read the manifest at `path` and verify the size and hash of every file it names. BundleError: no folder or
    // manifest, a newer schema, a path that leads out of the bundle, a missing or changed file.
    static Bundle open(const std::filesystem::path& path);

    const std::filesystem::path& root() const { return root_; }  // resolved
    const Manifest& manifest() const { return manifest_; }
    const std::string& id() const { return id_; }  // SHA-256 of the manifest, which names the whole bundle

    // Where a file of the bundle lies, links resolved; BundleError if that is outside.
    std::filesystem::path path(const std::string& relative) const;

private:
    Bundle(std::filesystem::path root, Manifest manifest, std::string id);
    void verify_files() const;

    std::filesystem::path root_;
    Manifest manifest_;
    std::string id_;
};

}  // namespace himar::core
