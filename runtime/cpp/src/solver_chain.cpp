#include "solver_chain.h"

#include <algorithm>
#include <cmath>

namespace himar::core {
namespace {

constexpr double kFirstLevel = -3.0, kLastLevel = 3.0;  // λ where chains begin and where their last step stands

// numpy.interp: the value at `x` of the line through the points (xs, 0 … size-1), xs ascending.
double place_of(double x, const std::vector<double>& xs) {
    const auto above = std::upper_bound(xs.begin(), xs.end(), x);
    if (above == xs.begin()) return 0;
    if (above == xs.end()) return static_cast<double>(xs.size() - 1);
    const auto below = above - 1;
    const double slope = 1 / (*above - *below);
    return slope * (x - *below) + static_cast<double>(below - xs.begin());
}

// A chain through these base steps, ascending: DDIM, or DPM-Solver++(2M) when `second_order`.
Chain chain_through(std::vector<long long> timesteps, bool second_order) {
    const std::vector<double> base = base_alphas_cumprod();
    const std::size_t n = timesteps.size();
    std::vector<double> kept(n), alpha(n), sigma(n), level(n);
    for (std::size_t k = 0; k < n; ++k) {
        kept[k] = base[static_cast<std::size_t>(timesteps[k])];
        alpha[k] = std::sqrt(kept[k]);
        sigma[k] = std::sqrt(1 - kept[k]);
        level[k] = std::log(alpha[k] / sigma[k]);
    }
    Chain chain;
    chain.timesteps = std::move(timesteps);
    chain.adds_noise = false;
    for (std::size_t k = 0; k < n; ++k) {
        double x_weight = 0, start_weight = 1, previous_weight = 0;  // the last step lands on x̂0
        if (k > 0) {
            x_weight = sigma[k - 1] / sigma[k];
            start_weight = alpha[k - 1] - x_weight * alpha[k];
        }
        if (second_order && k > 0 && k + 1 < n)  // the first step, at n-1, has none before it
            previous_weight = -start_weight * (level[k - 1] - level[k]) / (2 * (level[k] - level[k + 1]));
        chain.add_row({alpha[k], sigma[k], std::sqrt(1 / kept[k]), std::sqrt(1 / kept[k] - 1), x_weight,
                       start_weight - previous_weight, previous_weight, 0});
    }
    return chain;
}

}  // namespace

std::vector<long long> spaced_timesteps(std::int64_t steps) {
    std::vector<double> levels;  // -λ of the base chain, ascending
    for (const double kept : base_alphas_cumprod()) levels.push_back(-(std::log(kept / (1 - kept)) / 2));
    const double width = (kFirstLevel - kLastLevel) / static_cast<double>(steps - 1);
    std::vector<long long> timesteps;
    for (std::int64_t j = 0; j < steps; ++j) {
        const double wanted = j == steps - 1 ? kFirstLevel : static_cast<double>(j) * width + kLastLevel;
        timesteps.push_back(static_cast<long long>(std::nearbyint(place_of(-wanted, levels))));
    }
    // Long chains ask for more steps at either end than there are: each then takes the next one that is free, and the
    // longest all that there are.
    const long long last = std::max<long long>(timesteps.back(), steps - 1);
    long long gap = 0;  // steps left out before this one
    for (long long j = 0; j < steps; ++j) {
        long long& timestep = timesteps[static_cast<std::size_t>(j)];
        gap = std::max(gap, timestep - j);
        timestep = std::min(gap, last - (steps - 1)) + j;
    }
    return timesteps;
}

Chain build_chain(const std::string& solver, std::int64_t steps) {
    if (solver == "ddpm") return Chain::build(steps);
    check_chain_length(steps);
    return chain_through(spaced_timesteps(steps), solver == "dpm++");
}

}  // namespace himar::core
