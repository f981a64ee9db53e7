#include "memory/available.h"

#include <algorithm>
#include <cstdlib>
#include <map>

#include "error.h"
#include "machine/control_groups.h"
#include "queue/cuda/queue.h"
#include "text.h"

namespace himar::core {
namespace {

namespace fs = std::filesystem;

constexpr double kGigabyte = 1e9;
constexpr std::int64_t kNoLimit = std::int64_t{1} << 60;  // version 1 writes a number near 2^63 for none
constexpr const char* kDigits = "0123456789";

// The whole number that a text's digits are, at most kNoLimit; nothing for "max" and where there is no file.
std::optional<std::int64_t> whole(const std::string& text) {
    const std::string digits = trimmed(text, " \t\n\v\f\r");
    if (digits.empty() || digits.find_first_not_of(kDigits) != std::string::npos) return std::nullopt;
    if (digits.size() > 18) return kNoLimit;
    return std::min<std::int64_t>(std::strtoll(digits.c_str(), nullptr, 10), kNoLimit);
}

// The numbers of a file of lines such as `MemAvailable:  123 kB` or `inactive_file 123`, times a unit.
std::map<std::string, std::int64_t> fields(const fs::path& path, std::int64_t unit) {
    std::map<std::string, std::int64_t> found;
    for (const std::string& line : split(text_of(path), "\n")) {
        const std::size_t end = line.find_first_of(": \t");
        if (end == std::string::npos) continue;
        std::string value = trimmed(line.substr(line[end] == ':' ? end + 1 : end));
        if (value.size() > 3 && value.compare(value.size() - 3, 3, " kB") == 0) value.resize(value.size() - 3);
        if (const auto number = whole(value)) found[line.substr(0, end)] = unit * std::min(*number, kNoLimit / unit);
    }
    return found;
}

std::int64_t field(const std::map<std::string, std::int64_t>& fields, const std::string& name) {
    const auto found = fields.find(name);
    return found == fields.end() ? 0 : found->second;
}

// What a group may still take, its idle file pages included; nothing where it has no limit.
std::optional<std::int64_t> left_in_group(const ControlGroup& group, std::int64_t swap) {
    const bool is_second = group.version == 2;
    const auto number = [&](const char* name) { return whole(text_of(group.folder / name)); };
    const auto limit = number(is_second ? "memory.max" : "memory.limit_in_bytes");
    const auto used = number(is_second ? "memory.current" : "memory.usage_in_bytes");
    if (!limit || !used || *limit >= kNoLimit) return std::nullopt;
    const auto idle = field(fields(group.folder / "memory.stat", 1), is_second ? "inactive_file" : "total_inactive_file");
    if (is_second)
        if (const auto most = number("memory.swap.max"))
            swap = std::min(swap, std::max<std::int64_t>(0, *most - number("memory.swap.current").value_or(0)));
    return *limit - *used + idle + swap;
}

// What RLIMIT_AS leaves; nothing where there is no such limit.
std::optional<std::int64_t> left_of_address_space(const fs::path& root) {
    const std::string start = "Max address space ";
    const auto used = fields(root / "proc/self/status", 1024);
    if (used.count("VmSize") == 0) return std::nullopt;
    for (const std::string& line : split(text_of(root / "proc/self/limits"), "\n")) {
        if (line.compare(0, start.size(), start) != 0) continue;
        const std::string rest = trimmed(line.substr(start.size()));
        if (const auto limit = whole(rest.substr(0, rest.find(' ')))) return *limit - used.at("VmSize");
    }
    return std::nullopt;
}

// True for a number of GB: one to six digits, and at most nine after a dot.
bool is_gigabytes(const std::string& value) {
    const std::size_t dot = value.find('.');
    const auto digits = [](const std::string& part, std::size_t most) {
        return !part.empty() && part.size() <= most && part.find_first_not_of(kDigits) == std::string::npos;
    };
    return digits(value.substr(0, dot), 6) && (dot == std::string::npos || digits(value.substr(dot + 1), 9));
}

}  // namespace

std::optional<Available> available_memory(const Device& device, const fs::path& root) {
    const char* const set = std::getenv(kMemoryVariable);
    const std::string value = set == nullptr ? "" : set;
    if (value == "none") return std::nullopt;
    if (!value.empty() && !is_gigabytes(value))
        throw InputError(std::string(kMemoryVariable) + " is " + in_quotes(value) +
                         "; it must be the GB of memory to count on, such as 1.5, or none for no check.");
    std::vector<Available> found;
    if (!device.is_gpu)
        found = host_limits(root);
    else if (const auto free = cuda::free_memory(device.index))
        found.push_back({*free, "GPU " + std::to_string(device.index)});
    if (!value.empty())
        found.push_back({static_cast<std::int64_t>(std::strtod(value.c_str(), nullptr) * kGigabyte), kMemoryVariable});
    const auto fewer = [](const Available& a, const Available& b) { return a.bytes < b.bytes; };
    const auto least = std::min_element(found.begin(), found.end(), fewer);
    return least == found.end() ? std::nullopt : std::optional<Available>(*least);
}

std::vector<Available> host_limits(const fs::path& root) {
    std::vector<Available> found;
    const auto machine = fields(root / "proc/meminfo", 1024);
    const std::int64_t swap = field(machine, "SwapFree"), none = 0;
    if (machine.count("MemAvailable") > 0) found.push_back({machine.at("MemAvailable") + swap, "the machine"});
    for (const ControlGroup& group : control_groups(root, "memory"))
        if (const auto left = left_in_group(group, swap))
            found.push_back({std::max(none, *left), "the process's control group"});
    if (const auto space = left_of_address_space(root)) found.push_back({std::max(none, *space), "ulimit -v"});
    return found;
}

}  // namespace himar::core
