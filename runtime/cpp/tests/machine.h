// A folder as / of a machine, for what is read of its control groups and limits.
#pragma once

#include <fstream>
#include <map>
#include <string>

#include "bundles.h"

using Files = std::map<std::string, std::string>;

// With files below sys/fs/cgroup.
struct Machine : TemporaryFolder {
    Machine(const std::string& cgroup, const std::string& mountinfo, const Files& files) {
        write("proc/self/cgroup", cgroup);
        write("proc/self/mountinfo", mountinfo);
        for (const auto& [file, text] : files) write("sys/fs/cgroup/" + file, text);
    }
    void write(const std::string& file, const std::string& text) const {
        std::filesystem::create_directories((beside() / file).parent_path());
        std::ofstream(beside() / file) << text;
    }
};
