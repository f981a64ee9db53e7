#include "engines/cpu_threads.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <thread>
#include <vector>

#include "text.h"

namespace himar::core {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;
constexpr const char* kWhiteSpace = " \t\n\v\f\r";

std::string read(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

bool holds_cpu(const std::string& controllers) {
    const Words names = split(controllers, ",");
    return std::find(names.begin(), names.end(), "cpu") != names.end();
}

// The whole number that a text's digits are.
std::optional<double> whole(const std::string& digits) {
    if (digits.empty() || digits.find_first_not_of("0123456789") != std::string::npos) return std::nullopt;
    return std::strtod(digits.c_str(), nullptr);
}

std::optional<double> omp_threads(const std::string& text) {
    std::string first = trimmed(text.substr(0, text.find(',')), kWhiteSpace);
    if (first.rfind('+', 0) == 0) first.erase(0, 1);
    const std::optional<double> threads = whole(first);
    return threads && *threads > 0 ? threads : std::nullopt;
}

// Microseconds of CPU time per microsecond; nothing where the texts give no such quota ("max", "-1").
std::optional<double> share(const std::string& quota, const std::string& period) {
    const std::optional<double> most = whole(trimmed(quota, kWhiteSpace)), in = whole(trimmed(period, kWhiteSpace));
    if (!most || !in || *in == 0 || *most == 0) return std::nullopt;
    return *most / *in;
}

std::optional<double> quota_of(int version, const fs::path& group) {
    if (version == 1) return share(read(group / "cpu.cfs_quota_us"), read(group / "cpu.cfs_period_us"));
    const std::string text = read(group / "cpu.max");
    const std::size_t space = text.find(' ');
    return share(text.substr(0, space), space == std::string::npos ? "100000" : text.substr(space));
}

// The process's group in version 2's hierarchy, and in version 1's hierarchy of the controller "cpu".
std::map<int, std::string> memberships(const std::string& text) {
    std::map<int, std::string> groups;
    for (const std::string& line : split(text, "\n")) {
        const std::size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        if (controllers.empty() && line.substr(0, first) == "0")
            groups[2] = line.substr(second + 1);
        else if (holds_cpu(controllers))
            groups[1] = line.substr(second + 1);
    }
    return groups;
}

// Undo mountinfo's escapes, \040 for a space.
std::string unescaped(const std::string& text) {
    const auto octal = [&](std::size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '7'; };
    std::string plain;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const bool escape = text[i] == '\\' && octal(i + 1) && octal(i + 2) && octal(i + 3);
        plain += escape ? static_cast<char>(std::strtol(text.substr(i + 1, 3).c_str(), nullptr, 8)) : text[i];
        if (escape) i += 3;
    }
    return plain;
}

struct Mount {
    int version;
    fs::path root, point;
};

// The mounted hierarchies that have CPU quotas.
std::vector<Mount> mounts(const std::string& text) {
    std::vector<Mount> found;
    for (const std::string& line : split(text, "\n")) {
        const std::size_t dash = line.find(" - ");
        if (dash == std::string::npos) continue;
        const Words fields = split(line.substr(0, dash), " "), kind = split(line.substr(dash + 3), " ");
        if (fields.size() < 5 || kind.size() < 3) continue;
        const int version = kind[0] == "cgroup2" ? 2 : kind[0] == "cgroup" && holds_cpu(kind[2]) ? 1 : 0;
        if (version != 0) found.push_back({version, unescaped(fields[3]), unescaped(fields[4])});
    }
    return found;
}

// The folder of a group, and those of its parents as far as they are mounted; of a group outside the top alone.
std::vector<fs::path> groups_of(const fs::path& top, const fs::path& mount_root, const fs::path& member) {
    std::vector<fs::path> groups = {top};
    const auto [left, rest] = std::mismatch(mount_root.begin(), mount_root.end(), member.begin(), member.end());
    const auto leads_up = [](const fs::path& part) { return part == ".."; };
    if (left != mount_root.end() || std::any_of(rest, member.end(), leads_up)) return groups;
    for (auto part = rest; part != member.end(); ++part) groups.push_back(groups.back() / *part);
    return groups;
}

int allowed_cpus() {
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) == 0) return std::max(CPU_COUNT(&mask), 1);
    return std::max(static_cast<int>(std::thread::hardware_concurrency()), 1);  // more CPUs than a mask holds
}

}  // namespace

int default_threads(const std::string& omp_num_threads, const fs::path& root, int cpus) {
    double most = cpus;
    if (const auto asked = omp_threads(omp_num_threads)) most = std::min(most, *asked);
    const auto member = memberships(read(root / "proc/self/cgroup"));
    for (const Mount& mount : mounts(read(root / "proc/self/mountinfo"))) {
        const auto own = member.find(mount.version);
        if (own == member.end()) continue;
        for (const fs::path& group : groups_of(root / mount.point.relative_path(), mount.root, own->second))
            if (const auto quota = quota_of(mount.version, group)) most = std::min(most, *quota);
    }
    return std::max(1, static_cast<int>(std::ceil(most)));
}

int default_threads() {
    const char* const asked = std::getenv("OMP_NUM_THREADS");
    return default_threads(asked == nullptr ? "" : asked, "/", allowed_cpus());
}

bool threads_are_limited() { return default_threads() < sysconf(_SC_NPROCESSORS_ONLN); }

}  // namespace himar::core
