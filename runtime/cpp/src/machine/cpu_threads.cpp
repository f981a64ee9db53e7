#include "machine/cpu_threads.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <thread>

#include "machine/control_groups.h"
#include "text.h"

namespace himar::core {
namespace {

namespace fs = std::filesystem;
constexpr const char* kWhiteSpace = " \t\n\v\f\r";

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
    if (version == 1) return share(text_of(group / "cpu.cfs_quota_us"), text_of(group / "cpu.cfs_period_us"));
    const std::string text = text_of(group / "cpu.max");
    const std::size_t space = text.find(' ');
    return share(text.substr(0, space), space == std::string::npos ? "100000" : text.substr(space));
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
    for (const ControlGroup& group : control_groups(root, "cpu"))
        if (const auto quota = quota_of(group.version, group.folder)) most = std::min(most, *quota);
    return std::max(1, static_cast<int>(std::ceil(most)));
}

int default_threads() {
    const char* const asked = std::getenv("OMP_NUM_THREADS");
    return default_threads(asked == nullptr ? "" : asked, "/", allowed_cpus());
}

bool threads_are_limited() { return default_threads() < sysconf(_SC_NPROCESSORS_ONLN); }

}  // namespace himar::core
