#include "bundle/bundle.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>

#include "bundle/sha256.h"
#include "error.h"
#include "text.h"

namespace himar::core {
namespace {

namespace fs = std::filesystem;
constexpr const char* kManifest = "manifest.json";
constexpr std::uintmax_t kMostManifest = 16 << 20;

std::string read_manifest(const fs::path& source) {
    std::error_code failed;
    const std::uintmax_t size = fs::file_size(source, failed);
    if (!failed && size > kMostManifest)
        throw BundleError(source.string() + " has " + std::to_string(size) + " bytes; a manifest has at most " +
                          std::to_string(kMostManifest) + ".");
    std::ifstream file(source, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (failed || file.bad()) throw BundleError(source.string() + " cannot be read.");
    return text;
}

// True for a repository's folder in the Hub's local cache: models--OWNER--NAME.
bool is_hub_repository(const std::string& name) {
    for (const std::string kind : {"models--", "datasets--", "spaces--"})
        if (name.size() > kind.size() && name.compare(0, kind.size(), kind) == 0) return true;
    return false;
}

// The folder of the files that a snapshot in the Hub's cache links to; empty for any other folder.
fs::path blobs_of(const fs::path& root) {
    for (fs::path folder = root.parent_path(); folder.has_relative_path(); folder = folder.parent_path())
        if (folder.filename() == "snapshots" && is_hub_repository(folder.parent_path().filename().string()))
            return folder.parent_path() / "blobs";
    return {};
}

// BundleError if `relative` leads, links resolved, neither into the folder `root` nor to a blob of its Hub cache.
void require_inside(const fs::path& root, const std::string& relative) {
    std::error_code failed;
    const fs::path found = fs::weakly_canonical(root / relative, failed);
    if (failed) throw BundleError(relative + " in " + root.string() + " cannot be opened: " + failed.message() + ".");
    if (std::mismatch(root.begin(), root.end(), found.begin(), found.end()).first == root.end()) return;
    const fs::path blobs = blobs_of(root);
    if (!blobs.empty() && found.parent_path() == blobs) return;
    throw BundleError(relative + " in " + root.string() +
                      " is a link that leads out of the bundle; refusing to load it: copy the bundle with real files "
                      "(cp -rL), or download it again with local_dir.");
}

}  // namespace

Bundle::Bundle(fs::path root, Manifest manifest, std::string id)
    : root_(std::move(root)), manifest_(std::move(manifest)), id_(std::move(id)) {}

Bundle Bundle::open(const fs::path& path, bool hash_when_read) {
    std::error_code failed;
    if (!fs::is_directory(path, failed))
        throw BundleError(path.string() + " is not a folder; give a bundle that `himar-export build` wrote.");
    const fs::path root = fs::canonical(path, failed);
    if (failed) throw BundleError(path.string() + " cannot be opened: " + failed.message() + ".");
    const fs::path source = root / kManifest;
    require_inside(root, kManifest);  // it may be a link, too
    if (!fs::is_regular_file(source, failed))
        throw BundleError(root.string() + " has no " + kManifest +
                          ", so it is not a bundle; make one with `himar-export build`.");
    const std::string text = read_manifest(source);
    Bundle bundle(root, parse_manifest(text, source.string()), sha256(text));
    bundle.verify_sizes();
    const std::vector<std::string> files = bundle.all_files();
    bundle.unread_->names.insert(files.begin(), files.end());
    if (!hash_when_read) bundle.check(files);
    return bundle;
}

fs::path Bundle::path(const std::string& relative) const {
    fs::path found = place(relative);
    check(manifest_.files.count(relative) > 0 ? std::vector<std::string>{relative} : all_files());  // by another spelling
    return found;
}

fs::path Bundle::place(const std::string& relative) const {
    require_inside(root_, inside(relative, (root_ / kManifest).string()));
    return root_ / relative;
}

std::vector<float> Bundle::floats(const ArrayEntry& entry) const {
    std::ifstream file(path(entry.file), std::ios::binary);
    file.seekg(0, std::ios::end);
    const auto size = static_cast<std::int64_t>(file.tellg()), bytes = entry.count * static_cast<std::int64_t>(sizeof(float));
    std::vector<float> values;
    if (file && entry.offset >= 0 && entry.offset <= size - bytes) {
        values.resize(static_cast<std::size_t>(entry.count));
        file.seekg(entry.offset);
        file.read(reinterpret_cast<char*>(values.data()), bytes);
    }
    if (!file || values.empty())
        throw BundleError((root_ / kManifest).string() + " points at an array that is not there (" +
                          std::to_string(bytes) + " bytes at " + std::to_string(entry.offset) + " of " + entry.file +
                          "); build the bundle again.");
    return values;
}

std::vector<float> Bundle::floats(const HashedFile& entry, const std::vector<std::int64_t>& shape,
                                  const std::string& key) const {
    const std::string source = (root_ / kManifest).string();
    const auto found = manifest_.files.find(entry.file);
    if (found == manifest_.files.end())
        throw BundleError(source + " names " + entry.file + ", but gives no hash for it; build the bundle again.");
    if (found->second.sha256 != entry.sha256)
        throw BundleError(source + ": " + key + ".sha256 is not the sha256 of " + entry.file +
                          "; copy the bundle again or rebuild it.");
    std::int64_t count = 1;
    std::vector<std::string> sides;
    for (const std::int64_t side : shape) {
        count *= side;
        sides.push_back(std::to_string(side));
    }
    const std::int64_t bytes = count * static_cast<std::int64_t>(sizeof(float));
    if (found->second.bytes != bytes)
        throw BundleError(entry.file + " in " + root_.string() + " has " + std::to_string(found->second.bytes) +
                          " bytes, but " + key + " of shape (" + joined(sides) + ") takes " + std::to_string(bytes) +
                          "; build the bundle again.");
    return floats(ArrayEntry{entry.file, 0, count});
}

std::vector<std::string> Bundle::all_files() const {
    std::vector<std::string> names;
    for (const auto& [relative, entry] : manifest_.files) names.push_back(relative);
    return names;
}

void Bundle::check(const std::vector<std::string>& names) const {
    const std::lock_guard<std::mutex> lock(unread_->lock);
    for (const std::string& relative : names) {
        if (unread_->names.count(relative) == 0) continue;
        if (sha256_of_file(place(relative)) != manifest_.files.at(relative).sha256)
            throw BundleError(relative + " in " + root_.string() +
                              " does not have the manifest's sha256: it is damaged; copy the bundle again or rebuild it.");
        unread_->names.erase(relative);
    }
}

void Bundle::verify_sizes() const {
    for (const auto& [relative, entry] : manifest_.files) {
        const fs::path file = place(relative);
        std::error_code failed;
        if (!fs::is_regular_file(file, failed))
            throw BundleError(root_.string() + " lacks its file " + relative + "; copy the bundle again.");
        const std::uintmax_t size = fs::file_size(file, failed);
        if (failed || entry.bytes < 0 || size != static_cast<std::uintmax_t>(entry.bytes))
            throw BundleError(relative + " in " + root_.string() + " has " + std::to_string(size) +
                              " bytes where the manifest says " + std::to_string(entry.bytes) +
                              "; copy the bundle again or rebuild it.");
    }
}

}  // namespace himar::core
