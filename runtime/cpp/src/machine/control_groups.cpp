#include "machine/control_groups.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <utility>

#include "text.h"

namespace himar::core {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

bool holds(const std::string& controllers, const std::string& controller) {
    const Words names = split(controllers, ",");
    return std::find(names.begin(), names.end(), controller) != names.end();
}

// The process's group in version 2's hierarchy, and in version 1's hierarchy of the controller.
std::map<int, std::string> memberships(const std::string& text, const std::string& controller) {
    std::map<int, std::string> groups;
    for (const std::string& line : split(text, "\n")) {
        const std::size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        if (controllers.empty() && line.substr(0, first) == "0")
            groups[2] = line.substr(second + 1);
        else if (holds(controllers, controller))
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

// The mounted hierarchies that may limit what the controller is of.
std::vector<Mount> mounts(const std::string& text, const std::string& controller) {
    std::vector<Mount> found;
    for (const std::string& line : split(text, "\n")) {
        const std::size_t dash = line.find(" - ");
        if (dash == std::string::npos) continue;
        const Words fields = split(line.substr(0, dash), " "), kind = split(line.substr(dash + 3), " ");
        if (fields.size() < 5 || kind.size() < 3) continue;
        const int version = kind[0] == "cgroup2" ? 2 : kind[0] == "cgroup" && holds(kind[2], controller) ? 1 : 0;
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

}  // namespace

std::vector<ControlGroup> control_groups(const fs::path& root, const std::string& controller) {
    std::vector<ControlGroup> groups;
    const auto member = memberships(text_of(root / "proc/self/cgroup"), controller);
    for (const Mount& mount : mounts(text_of(root / "proc/self/mountinfo"), controller)) {
        const auto own = member.find(mount.version);
        if (own == member.end()) continue;
        for (fs::path& folder : groups_of(root / mount.point.relative_path(), mount.root, own->second))
            groups.push_back({mount.version, std::move(folder)});
    }
    return groups;
}

std::string text_of(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace himar::core
