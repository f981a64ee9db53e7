#include "engines/ort/entries.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <tuple>
#include <vector>

#include "error.h"
#include "text.h"

namespace himar::core {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kKeyDigits = 32;
constexpr std::size_t kTokenDigits = 8;

[[noreturn]] void fail(const fs::path& path) { throw std::system_error(errno, std::generic_category(), path.string()); }

bool names(const fs::path& path, int descriptor) {
    struct stat by_name, open;
    return stat(path.c_str(), &by_name) == 0 && fstat(descriptor, &open) == 0 && by_name.st_dev == open.st_dev &&
           by_name.st_ino == open.st_ino;
}

bool is_hex(const std::string& text, std::size_t digits) {
    return text.size() == digits && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// The key whose unfinished folder this is, by its name ".<key>.<token>"; empty for any other.
std::string unfinished_key(const std::string& name) {
    if (name.size() != kKeyDigits + kTokenDigits + 2 || name[0] != '.' || name[kKeyDigits + 1] != '.') return "";
    const std::string key = name.substr(1, kKeyDigits);
    return is_hex(key, kKeyDigits) && is_hex(name.substr(kKeyDigits + 2), kTokenDigits) ? key : "";
}

fs::path hidden(const fs::path& target) {
    std::random_device random;
    std::string token;
    for (std::size_t i = 0; i < kTokenDigits; ++i) token += "0123456789abcdef"[random() % 16];
    return target.parent_path() / ("." + target.filename().string() + "." + token);
}

void flush(const fs::path& path) {
    const OpenFile file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (file.descriptor() < 0 || fsync(file.descriptor()) != 0) fail(path);
}

// Some network disks cannot flush a folder; what is in it is whole there all the same.
void flush_folder(const fs::path& path) {
    const OpenFile file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (file.descriptor() >= 0) fsync(file.descriptor());
}

void remove_folder(const fs::path& path) {
    std::error_code stays;
    fs::remove_all(path, stays);
}

// The time of an entry's last use, 0 where it is damaged, and its bytes.
std::pair<std::int64_t, std::uintmax_t> facts(const fs::path& folder) {
    std::int64_t used = 0;
    std::uintmax_t size = 0;
    std::error_code gone;
    for (const auto& file : fs::directory_iterator(folder, gone)) {
        struct stat found;
        if (stat(file.path().c_str(), &found) != 0) continue;
        size += static_cast<std::uintmax_t>(found.st_size);
        if (file.path().filename() == kEntry) used = found.st_mtim.tv_sec * std::int64_t{1000000000} + found.st_mtim.tv_nsec;
    }
    return {used, size};
}

// Remove an entry unless a process uses, makes or removes it; true where it is gone.
bool removed(const fs::path& folder) {
    bool gone = false;
    try {
        making_entry(folder, [&] {
            const OpenFile entry(open((folder / kEntry).c_str(), O_RDWR | O_CLOEXEC));
            if (entry.descriptor() < 0 ? errno != ENOENT : flock(entry.descriptor(), LOCK_EX | LOCK_NB) != 0) return;
            const fs::path away = hidden(folder);
            fs::rename(folder, away);
            remove_folder(away);
            gone = true;
        }, 0);
    } catch (const std::exception&) {
    }
    return gone;
}

}  // namespace

OpenFile::~OpenFile() {
    if (descriptor_ >= 0) close(descriptor_);
}

std::optional<OpenFile> use_entry(const fs::path& folder) {
    OpenFile file(open((folder / kEntry).c_str(), O_RDONLY | O_CLOEXEC));
    if (file.descriptor() < 0) return std::nullopt;
    // Of other errors: a disk without locks, where nothing is removed either.
    if (flock(file.descriptor(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK) return std::nullopt;  // it is being removed
    if (!names(folder / kEntry, file.descriptor())) return std::nullopt;
    futimens(file.descriptor(), nullptr);  // fails where it is another user's, which may be read
    return file;
}

void making_entry(const fs::path& folder, const std::function<void()>& make, double seconds) {
    const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    fs::create_directories(folder.parent_path());
    const fs::path path = fs::path(folder).replace_extension(".lock");
    for (;;) {
        const OpenFile file(open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0666));
        if (file.descriptor() < 0) fail(path);
        if (flock(file.descriptor(), LOCK_EX | LOCK_NB) == 0) {
            if (!names(path, file.descriptor())) continue;  // who held it has removed it since
            const struct Unlink {
                const fs::path& path;
                ~Unlink() { unlink(path.c_str()); }
            } unlink_at_end{path};
            return make();
        }
        if (errno != EWOULDBLOCK) fail(path);
        if (Clock::now() >= end) throw EngineError("another process has been at it for " + shown_short(seconds) + " s");
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
}

void make_folder(const fs::path& target, const std::function<void(const fs::path&)>& write) {
    const fs::path unfinished = hidden(target);
    try {
        fs::create_directory(unfinished);
        write(unfinished);
        for (const auto& file : fs::directory_iterator(unfinished)) flush(file.path());
        flush_folder(unfinished);
        fs::rename(unfinished, target);
    } catch (...) {
        remove_folder(unfinished);
        throw;
    }
    flush_folder(target.parent_path());
}

void remove_oldest_entries(const fs::path& root, std::uintmax_t most) {
    std::vector<std::tuple<std::int64_t, std::uintmax_t, fs::path>> kept;
    std::uintmax_t total = 0;
    std::error_code failed;
    std::vector<fs::path> folders;
    for (const auto& folder : fs::directory_iterator(root, failed))
        if (folder.is_directory(failed)) folders.push_back(folder.path());
    for (const fs::path& folder : folders) {
        const std::string name = folder.filename().string(), key = unfinished_key(name);
        try {
            if (!key.empty()) making_entry(root / key, [&] { remove_folder(folder); }, 0);
        } catch (const std::exception&) {
        }
        if (!is_hex(name, kKeyDigits)) continue;
        const auto [used, size] = facts(folder);
        kept.emplace_back(used, size, folder);
        total += size;
    }
    std::sort(kept.begin(), kept.end());
    for (const auto& [used, size, folder] : kept) {
        if (total <= most) break;
        if (removed(folder)) total -= size;
    }
}

}  // namespace himar::core
