// Entries of a folder that processes make, use and remove: locks that keep them apart, and room for new ones.
//
//     DIR/<key>.lock          locked by the process that makes or removes the entry; gone when it has
//     DIR/<key>/entry.json    locked together by the processes that use the entry, alone by the one that removes it;
//                             its time of change is that of the last use
//
// An entry is a folder that appears in one move. Locks end with the process that holds them, however it ends. The
// counterpart of himar_runtime/engines/ort/entries.py, which takes the same ones.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <utility>

namespace himar::core {

constexpr const char* kEntry = "entry.json";

// An open file, closed with the object.
class OpenFile {
public:
    explicit OpenFile(int descriptor) : descriptor_(descriptor) {}
    ~OpenFile();
    OpenFile(OpenFile&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
    OpenFile& operator=(OpenFile&& other) noexcept {
        std::swap(descriptor_, other.descriptor_);
        return *this;
    }

    int descriptor() const { return descriptor_; }

private:
    int descriptor_;
};

// Keep an entry from being removed, as long as what is returned lives, and note that it is used; nothing where there is
// no entry.
std::optional<OpenFile> use_entry(const std::filesystem::path& folder);

// Run `make` with an entry's lock, so that processes which start together make it once. EngineError where another process
// holds it for longer than `seconds`; an error of the system where the folder cannot be written.
void making_entry(const std::filesystem::path& folder, const std::function<void()>& make, double seconds = 300);

// Give a folder's files to `write`, then flush them and give the folder the name `target`, in one move. Nothing is left
// where something is thrown.
void make_folder(const std::filesystem::path& target, const std::function<void(const std::filesystem::path&)>& write);

// Remove entries that no process uses, the least recently used first, until all take at most `most` bytes. What killed
// processes left unfinished goes too. What cannot be removed stays.
void remove_oldest_entries(const std::filesystem::path& root, std::uintmax_t most);

}  // namespace himar::core
