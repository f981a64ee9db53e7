// Times runs as `himar-export bench` does: a warm-up until they settle, then a summary with the same percentiles.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <vector>

// What the runs before the timed ones took, in seconds, and whether they had settled.
struct WarmUp {
    std::vector<double> seconds;
    bool stable = false;
};

// Seconds of a run; none where it was stopped.
using Run = std::function<std::optional<double>()>;

// Run until the last three lie within 10 % of the fastest of them, or `limit` seconds or 50 runs have passed; at least once.
// None where a run was stopped.
std::optional<WarmUp> warm_up(const Run& run, double limit);

// Percentiles are interpolated linearly between the neighbours of rank q·(n−1), counted from 0; one beyond which less than
// one run is expected is none: p90, p95 and p99 need 10, 20 and 100. variation: standard deviation (n−1) by the mean.
struct Summary {
    double least = 0, median = 0, mean = 0, variation = 0;
    std::optional<double> p90, p95, p99;
};

// Of at least two runs.
Summary summarise(std::vector<double> seconds);
