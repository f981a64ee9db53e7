// A histogram of seconds as Prometheus reads it.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace himar::service {

class Histogram {
public:
    // Count a value of at least 0.
    void observe(double seconds);

    // The lines NAME_bucket (cumulative), NAME_sum and NAME_count, with the lines of help and type before them.
    std::string text(const std::string& name, const std::string& help) const;

private:
    static constexpr std::array<const char*, 13> kLabels = {"0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5",
                                                            "1",     "2.5",  "5",     "10",   "30",  "60"};
    static constexpr std::array<double, 13> kEdges = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};

    std::array<std::uint64_t, kEdges.size() + 1> counts_{};  // of each bucket alone; the last is beyond every edge
    double sum_ = 0;
};

}  // namespace himar::service
