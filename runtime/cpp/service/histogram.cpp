#include "histogram.h"

#include <algorithm>
#include <cstdio>

namespace himar::service {

void Histogram::observe(double seconds) {
    // A bucket holds the values up to and with its edge.
    const auto edge = std::lower_bound(kEdges.begin(), kEdges.end(), seconds);
    ++counts_[static_cast<std::size_t>(edge - kEdges.begin())];
    sum_ += seconds;
}

std::string Histogram::text(const std::string& name, const std::string& help) const {
    std::string lines = "# HELP " + name + " " + help + "\n# TYPE " + name + " histogram\n";
    std::uint64_t so_far = 0;
    for (std::size_t i = 0; i < kEdges.size(); ++i) {
        so_far += counts_[i];
        lines += name + "_bucket{le=\"" + kLabels[i] + "\"} " + std::to_string(so_far) + "\n";
    }
    so_far += counts_.back();
    char sum[32];
    std::snprintf(sum, sizeof sum, "%.9g", sum_);
    return lines + name + "_bucket{le=\"+Inf\"} " + std::to_string(so_far) + "\n" + name + "_sum " + sum + "\n" + name +
           "_count " + std::to_string(so_far) + "\n";
}

}  // namespace himar::service
