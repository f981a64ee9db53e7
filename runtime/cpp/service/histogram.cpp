#include "histogram.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace himar::service {
namespace {

std::string shown(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.9g", value);
    return text;
}

}  // namespace

std::vector<double> edges_up_to(double timeout) {
    std::vector<double> edges = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
    for (const double longer : {120, 300, 600, 1800, 3600, 7200, 21600, 86400, 1000000})
        if (edges.back() < timeout) edges.push_back(longer);
    return edges;
}

Histogram::Histogram(std::vector<double> edges) : edges_(std::move(edges)), counts_(edges_.size() + 1) {}

void Histogram::observe(double seconds) {
    // A bucket holds the values up to and with its edge.
    const auto edge = std::lower_bound(edges_.begin(), edges_.end(), seconds);
    ++counts_[static_cast<std::size_t>(edge - edges_.begin())];
    sum_ += seconds;
}

std::string Histogram::text(const std::string& name, const std::string& help) const {
    std::string lines = "# HELP " + name + " " + help + "\n# TYPE " + name + " histogram\n";
    std::uint64_t so_far = 0;
    for (std::size_t i = 0; i < edges_.size(); ++i) {
        so_far += counts_[i];
        lines += name + "_bucket{le=\"" + shown(edges_[i]) + "\"} " + std::to_string(so_far) + "\n";
    }
    so_far += counts_.back();
    return lines + name + "_bucket{le=\"+Inf\"} " + std::to_string(so_far) + "\n" + name + "_sum " + shown(sum_) + "\n" +
           name + "_count " + std::to_string(so_far) + "\n";
}

}  // namespace himar::service
