#include "families/hi_mar/chain.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "error.h"

namespace himar::core::hi_mar {
namespace {

constexpr double kPi = 3.141592653589793238462643, kMostBeta = 0.999;
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

// ᾱ of the base chain, cosine schedule.
std::vector<double> base_alphas_cumprod() {
    const auto alpha_bar = [](std::int64_t step) {
        const double u = static_cast<double>(step) / Chain::kMost;
        const double cosine = std::cos((u + 0.008) / 1.008 * kPi / 2);
        return cosine * cosine;
    };
    std::vector<double> cumprod;
    double product = 1;
    for (std::int64_t step = 0; step < Chain::kMost; ++step) {
        product *= 1 - std::min(1 - alpha_bar(step + 1) / alpha_bar(step), kMostBeta);
        cumprod.push_back(product);
    }
    return cumprod;
}

// The paper's reverse steps (docs/model.md §5).
Chain ddpm_chain(std::int64_t steps) {
    const std::vector<double> base = base_alphas_cumprod();
    const auto n = static_cast<std::size_t>(steps);
    Chain chain;
    std::vector<double> betas(n), cumprod(n), previous(n), posterior(n);
    double before = 1, product = 1;
    for (std::size_t k = 0; k < n; ++k) {
        const double place = static_cast<double>(k) * (Chain::kMost - 1) / static_cast<double>(steps - 1);
        chain.timesteps.push_back(static_cast<long long>(std::nearbyint(place)));
        const double kept = base[static_cast<std::size_t>(chain.timesteps[k])];
        betas[k] = 1 - kept / before;
        before = kept;
        previous[k] = product;
        product *= 1 - betas[k];
        cumprod[k] = product;
        posterior[k] = betas[k] * (1 - previous[k]) / (1 - cumprod[k]);
    }
    posterior[0] = posterior[1];
    for (std::size_t k = 0; k < n; ++k)
        chain.add_row({
            std::sqrt(cumprod[k]),
            std::sqrt(1 - cumprod[k]),
            std::sqrt(1 / cumprod[k]),
            std::sqrt(1 / cumprod[k] - 1),
            betas[k] * std::sqrt(previous[k]) / (1 - cumprod[k]),
            (1 - previous[k]) * std::sqrt(1 - betas[k]) / (1 - cumprod[k]),
            std::log(betas[k]),
            std::log(posterior[k]),
        });
    return chain;
}

// The base steps (n) of a solver's chain, ascending: even in λ, half the log signal-to-noise ratio, from 3 to -3.
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

void Chain::add_row(const std::array<double, kColumns>& row) {
    for (const double value : row) table.push_back(static_cast<float>(value));
}

Chain build_chain(const std::string& solver, std::int64_t steps) {
    if (steps < 2 || steps > Chain::kMost)
        throw InputError("a chain of " + std::to_string(steps) + " diffusion steps was asked for; it must be 2 to " +
                         std::to_string(Chain::kMost) + ".");
    if (solver == "ddpm") return ddpm_chain(steps);
    return chain_through(spaced_timesteps(steps), solver == "dpm++");
}

}  // namespace himar::core::hi_mar
