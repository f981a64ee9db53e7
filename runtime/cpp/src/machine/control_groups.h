// The control groups that a process is in, its parents' included, whose limits it must keep to. The rules are those of
// himar_kernels/shared/control_groups.py.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace himar::core {

struct ControlGroup {
    int version;  // 1 or 2
    std::filesystem::path folder;
};

// The groups of this process and their parents as far as they are mounted. `root` holds proc and sys; controller: "cpu" or
// "memory", of version 1 its hierarchy alone counts.
std::vector<ControlGroup> control_groups(const std::filesystem::path& root, const std::string& controller);

// A file's text, "" where there is none: not on this system, or not in this group.
std::string text_of(const std::filesystem::path& path);

}  // namespace himar::core
