// Any folder as a bundle: it is opened, or refused by a BundleError, and nothing outside of it and of the blobs of its cache
// is read.
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "bundle/bundle.h"
#include "bundle/sha256.h"
#include "error.h"
#include "open_guard.h"
#include "run_corpus.h"

using namespace himar::core;
namespace fs = std::filesystem;

namespace {

struct Entry {
    char kind;
    std::string name, content;
};

// Names that the folder itself is written by must stay in it. Links and pipes stand at the top, and last.
bool is_writable(const Entry& entry) {
    const std::string& name = entry.name;
    if (name.empty() || name.size() > 200 || name.find('\0') != std::string::npos) return false;
    if (entry.kind != 'f') return name.find('/') == std::string::npos && name != "." && name != "..";
    for (const fs::path& part : fs::path(name))
        if (part == ".." || part == "/") return false;
    return true;
}

std::vector<Entry> read(std::string_view bytes, std::string& manifest) {
    std::size_t end = std::min(bytes.find('\x1f'), bytes.size());
    manifest = bytes.substr(0, end);
    std::vector<Entry> entries;
    while (end < bytes.size() && entries.size() < 32) {
        const std::size_t start = end + 1;
        end = std::min(bytes.find('\x1f', start), bytes.size());
        const std::string_view part = bytes.substr(start, end - start);
        const std::size_t line = part.find('\n');
        if (line == std::string_view::npos || line < 3 || part[1] != ' ') continue;
        Entry entry{part[0], std::string(part.substr(2, line - 2)), std::string(part.substr(line + 1))};
        if (is_writable(entry)) entries.push_back(std::move(entry));
    }
    return entries;
}

std::string filled_in(const std::string& manifest, const std::map<std::string, std::string>& contents) {
    std::string text;
    for (std::size_t place = 0; place < manifest.size();) {
        const std::size_t at = manifest.find('@', place), end = manifest.find('@', at + 1);
        if (at == std::string::npos || end == std::string::npos) return text + manifest.substr(place);
        const std::string word = manifest.substr(at + 1, end - at - 1);
        const std::size_t space = std::min(word.find(' '), word.size());
        const auto found = contents.find(word.substr(std::min(space + 1, word.size())));
        const std::string kind = word.substr(0, space);
        text += manifest.substr(place, at - place);
        if (found == contents.end() || (kind != "sha256" && kind != "bytes")) {
            text += '@';
            place = at + 1;
            continue;
        }
        text += kind == "bytes" ? std::to_string(found->second.size()) : sha256(found->second);
        place = end + 1;
    }
    return text;
}

// Best effort: two entries may want the same name.
void write(const fs::path& path, const std::string& content) {
    std::error_code ignored;
    fs::create_directories(path.parent_path(), ignored);
    std::ofstream(path, std::ios::binary) << content;
}

// A folder made of a fuzzer's bytes, so that they can say what files, links and pipes a bundle has.
//
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

    const fs::path& path() const { return path_; }    // resolved
    const fs::path& blobs() const { return blobs_; }  // resolved

private:
    fs::path beside_, path_, blobs_;
};

Folder::Folder(std::string_view bytes) {
    std::string name = (fs::temp_directory_path() / "himar-fuzz-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder can be made.");
    beside_ = fs::canonical(name);
    path_ = beside_ / "models--a--b" / "snapshots" / "c";
    blobs_ = beside_ / "models--a--b" / "blobs";
    fs::create_directories(path_);
    fs::create_directories(blobs_);
    for (const fs::path& folder : {beside_, path_.parent_path()}) write(folder / "outside", "nobody reads this");
    std::string manifest;
    const std::vector<Entry> entries = read(bytes, manifest);
    std::map<std::string, std::string> contents = {{"outside", "nobody reads this"}};
    for (const Entry& entry : entries)
        if (entry.kind == 'f' || entry.kind == 'b') {
            write((entry.kind == 'f' ? path_ : blobs_) / entry.name, entry.content);
            contents[entry.name] = entry.content;
        }
    write(path_ / "manifest.json", filled_in(manifest, contents));
    for (const Entry& entry : entries) {
        const fs::path path = path_ / entry.name;
        if (entry.kind == 'f' || entry.kind == 'b') continue;
        ::unlink(path.c_str());
        if (entry.kind == 'l') [[maybe_unused]] const int made = ::symlink(entry.content.c_str(), path.c_str());
        if (entry.kind == 'p') [[maybe_unused]] const int made = ::mkfifo(path.c_str(), 0600);
    }
}

Folder::~Folder() {
    std::error_code ignored;
    fs::remove_all(beside_, ignored);
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
    check_guard();
    sha256("");  // libcrypto reads its configuration at its first use
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const Folder folder({reinterpret_cast<const char*>(data), size});
    const Guard guard({folder.path(), folder.blobs()});
    try {
        const Bundle bundle = Bundle::open(folder.path());
        for (const auto& [name, component] : bundle.manifest().components) {
            require_inside(bundle.path(component.file).string());
            require_inside(bundle.path(component.engine_file).string());
        }
        require_inside(bundle.path(bundle.manifest().selftest).string());
        ++inputs_read;
    } catch (const BundleError&) {
    }
    return 0;
}
