#include "timing.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace {

constexpr std::size_t kStableRuns = 3, kMostWarmUps = 50;
constexpr double kStableWithin = 0.1;

double at(const std::vector<double>& sorted, double share) {
    const double rank = share * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<std::size_t>(rank);
    const std::size_t above = std::min(below + 1, sorted.size() - 1);
    return sorted[below] + (rank - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

std::optional<double> percentile(const std::vector<double>& sorted, int percent) {
    const std::size_t needed = (100 + 99 - static_cast<std::size_t>(percent)) / (100 - static_cast<std::size_t>(percent));
    if (sorted.size() < needed) return std::nullopt;
    return at(sorted, percent / 100.0);
}

}  // namespace

std::optional<WarmUp> warm_up(const Run& run, double limit) {
    WarmUp found;
    double total = 0;
    while (true) {
        const std::optional<double> seconds = run();
        if (!seconds) return std::nullopt;
        found.seconds.push_back(*seconds);
        total += *seconds;
        if (found.seconds.size() >= kStableRuns) {
            const auto [least, most] = std::minmax_element(found.seconds.end() - kStableRuns, found.seconds.end());
            found.stable = *most <= (1 + kStableWithin) * *least;
        }
        if (found.stable || total >= limit || found.seconds.size() == kMostWarmUps) return found;
    }
}

Summary summarise(std::vector<double> seconds) {
    std::sort(seconds.begin(), seconds.end());
    const auto count = static_cast<double>(seconds.size());
    Summary found;
    found.least = seconds.front();
    found.median = at(seconds, 0.5);
    found.mean = std::accumulate(seconds.begin(), seconds.end(), 0.0) / count;
    double squares = 0;
    for (const double each : seconds) squares += (each - found.mean) * (each - found.mean);
    found.variation = std::sqrt(squares / (count - 1)) / found.mean;
    found.p90 = percentile(seconds, 90);
    found.p95 = percentile(seconds, 95);
    found.p99 = percentile(seconds, 99);
    return found;
}
