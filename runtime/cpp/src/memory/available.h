// How much memory a process may still take: the machine's, its control groups', its own limit's, a GPU's. The rules are those
// of himar_runtime/memory/available.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engines/networks.h"

namespace himar::core {

// GB that this process may count on, such as 1.5; "none" loads whatever is asked for, without a look at the memory.
constexpr const char* kMemoryVariable = "HIMAR_MEMORY_LIMIT";

// Bytes that can still be taken, and whose they are, in words.
struct Available {
    std::int64_t bytes;
    std::string of;
};

// What a device has left; nothing where that is not known, or where the variable says that it does not matter. `root` holds
// proc and sys. InputError where the variable is anything but a number of GB or "none".
std::optional<Available> available_memory(const Device& device, const std::filesystem::path& root = "/");

// What is left by each limit that holds for this process, swap included.
std::vector<Available> host_limits(const std::filesystem::path& root);

}  // namespace himar::core
