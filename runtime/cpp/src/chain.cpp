#include "chain.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "error.h"

namespace himar::core {
namespace {

constexpr double kPi = 3.141592653589793238462643, kMostBeta = 0.999;

}  // namespace

std::vector<double> base_alphas_cumprod() {
    const auto alpha_bar = [](std::int64_t step) {
        const double u = static_cast<double>(step) / kBaseSteps;
        const double cosine = std::cos((u + 0.008) / 1.008 * kPi / 2);
        return cosine * cosine;
    };
    std::vector<double> cumprod;
    double product = 1;
    for (std::int64_t step = 0; step < kBaseSteps; ++step) {
        product *= 1 - std::min(1 - alpha_bar(step + 1) / alpha_bar(step), kMostBeta);
        cumprod.push_back(product);
    }
    return cumprod;
}

void check_chain_length(std::int64_t steps) {
    if (steps < 2 || steps > kBaseSteps)
        throw InputError("a chain of " + std::to_string(steps) + " diffusion steps was asked; it must be 2 to " +
                         std::to_string(kBaseSteps) + ".");
}

void Chain::add_row(const std::array<double, 8>& row) {
    for (const double value : row) table.push_back(static_cast<float>(value));
}

Chain Chain::build(std::int64_t steps) {
    check_chain_length(steps);
    const std::vector<double> base = base_alphas_cumprod();
    const auto n = static_cast<std::size_t>(steps);
    Chain chain;
    std::vector<double> betas(n), cumprod(n), previous(n), posterior(n);
    double before = 1, product = 1;
    for (std::size_t k = 0; k < n; ++k) {
        const double place = static_cast<double>(k) * (kBaseSteps - 1) / static_cast<double>(steps - 1);
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

}  // namespace himar::core
