// How many CPU threads a program takes when nobody says: no more than the CPUs that it was given. The rules are those of
// kernels/cpu_threads.py.
#pragma once

#include <filesystem>
#include <string>

namespace himar::core {

// The smallest of `cpus`, the first number of `omp_num_threads` ("4,2"; ignored where that is not a whole number of at least
// 1), and the CPU quotas of the process's control groups, versions 1 and 2, rounded up. At least 1. `root` holds proc and
// sys.
int default_threads(const std::string& omp_num_threads, const std::filesystem::path& root, int cpus);

// The same for this process: its environment, its control groups, its affinity mask.
int default_threads();

// True when that is fewer than the machine's CPUs.
bool threads_are_limited();

}  // namespace himar::core
