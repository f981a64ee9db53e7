// A histogram of seconds as Prometheus reads it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace himar::service {

// The edges in seconds of requests that may take `timeout`: up to a minute, and on to the first that it does not exceed.
std::vector<double> edges_up_to(double timeout);

class Histogram {
public:
    // edges: ascending.
    explicit Histogram(std::vector<double> edges);

    // Count a value of at least 0.
    void observe(double seconds);

    // The lines NAME_bucket (cumulative), NAME_sum and NAME_count, with the lines of help and type before them.
    std::string text(const std::string& name, const std::string& help) const;

private:
    std::vector<double> edges_;
    std::vector<std::uint64_t> counts_;  // of each bucket alone; the last is beyond every edge
    double sum_ = 0;
};

}  // namespace himar::service
