// The default number of CPU threads, on control groups as containers, pods and machines without either show them; the
// cases are those of tests/kernels/test_cpu_threads.py.
#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "machine.h"
#include "machine/cpu_threads.h"

using namespace himar::core;
namespace fs = std::filesystem;

namespace {

constexpr int kMachine = 64;
const std::string kV2 = "30 23 0:26 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n";
const std::string kV1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n";

std::string replaced(std::string text, const std::string& old, const std::string& by) {
    return text.replace(text.find(old), old.size(), by);
}

int threads_of(const std::string& cgroup, const std::string& mountinfo, const Files& files) {
    const Machine machine(cgroup, mountinfo, files);
    CHECK(default_threads("1", machine.beside(), kMachine) == 1);
    return default_threads("", machine.beside(), kMachine);
}

}  // namespace

TEST_SUITE_BEGIN("cpu_threads");

TEST_CASE("quotas of version 2 limit the threads") {
    CHECK(threads_of("0::/\n", kV2, {{"cpu.max", "200000 100000\n"}}) == 2);
    CHECK(threads_of("0::/\n", kV2, {{"cpu.max", "150000 100000\n"}}) == 2);
    CHECK(threads_of("0::/\n", kV2, {{"cpu.max", "20000 100000\n"}}) == 1);
    CHECK(threads_of("0::/\n", kV2, {{"cpu.max", "300000\n"}}) == 3);
    for (const char* const none : {"max 100000\n", "9900000 100000\n", "nonsense", "0 0\n", ""})
        CHECK(threads_of("0::/\n", kV2, {{"cpu.max", none}}) == kMachine);
    CHECK(threads_of("0::/\n", kV2, {}) == kMachine);
}

TEST_CASE("quotas of parents count, as far as they are mounted") {
    CHECK(threads_of("0::/pods/pod1/box\n", kV2,
                     {{"pods/cpu.max", "1000000 100000"}, {"pods/pod1/cpu.max", "400000 100000"},
                      {"pods/pod1/box/cpu.max", "max 1"}}) == 4);
    CHECK(threads_of("0::/a/b\n", kV2, {{"a/b/cpu.max", "500000 100000"}}) == 5);
    CHECK(threads_of("0::/../other\n", kV2, {{"cpu.max", "300000 100000"}}) == 3);
    CHECK(threads_of("0::/docker/1f\n", replaced(kV2, " / /sys", " /docker/1f /sys"), {{"cpu.max", "300000 100000"}}) == 3);
    CHECK(threads_of("0::/\n", replaced(kV2, "/sys/fs/cgroup", "/sys/fs/cgroup/a\\040b"),
                     {{"a b/cpu.max", "200000 100000"}}) == 2);
}

TEST_CASE("quotas of version 1 limit the threads") {
    const auto files = [](const char* quota, const char* period) {
        return Files{{"cpu,cpuacct/cpu.cfs_quota_us", quota}, {"cpu,cpuacct/cpu.cfs_period_us", period}};
    };
    CHECK(threads_of("5:cpu,cpuacct:/\n1:name=systemd:/\n", kV1, files("250000\n", "100000\n")) == 3);
    CHECK(threads_of("5:cpu,cpuacct:/docker/1f\n", replaced(kV1, " / /sys", " /docker/1f /sys"),
                     files("100000\n", "50000\n")) == 2);
    CHECK(threads_of("5:cpu,cpuacct:/\n", kV1, files("-1\n", "100000\n")) == kMachine);
    CHECK(threads_of("1:cpu,cpuacct:/\n0::/\n", kV1 + replaced(kV2, "/sys/fs/cgroup", "/sys/fs/cgroup/unified"),
                     files("700000", "100000")) == 7);
}

TEST_CASE("no control groups, or none that can be read") {
    CHECK(threads_of("", "", {}) == kMachine);
    CHECK(threads_of("nonsense\n", "nonsense\n- \n", {}) == kMachine);
    CHECK(default_threads("", "/no/such/folder", kMachine) == kMachine);
}

TEST_CASE("OMP_NUM_THREADS is read as OpenMP reads it") {
    const auto read = [](const char* text) { return default_threads(text, "/no/such/folder", kMachine); };
    CHECK(read("1") == 1);
    CHECK(read(" 3 ") == 3);
    CHECK(read("+2") == 2);
    CHECK(read("04") == 4);
    CHECK(read("4,2") == 4);
    CHECK(read("4, 2,1") == 4);
    for (const char* const none : {"", "0", "-1", "abc", "2x", "1.5", ",2", "+", "99999999999999999999"})
        CHECK(read(none) == kMachine);
}

TEST_CASE("the process itself") {
    CHECK(default_threads() >= 1);
    CHECK(threads_are_limited() == (default_threads() < static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN))));
}

TEST_SUITE_END();
