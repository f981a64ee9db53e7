// The tables of an n-step way from noise to tokens, as himar_kernels.families.hi_mar.Chain and chain_table make them.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace himar::core {

struct Chain {
    std::vector<long long> timesteps;  // (n), index of each step in the base chain of 1000; what the heads embed
    std::vector<float> table;  // (n, 8), columns as in struct ChainRow or SolverRow of kernels/himar_kernels/cuda/*.cuh
    bool adds_noise = true;    // ChainRow, for the kernels *_step; else SolverRow, for *_solve

    std::int64_t length() const { return static_cast<std::int64_t>(timesteps.size()); }

    // Compute the paper's reverse steps, a chain of 2 … 1000 kept ones, in float64 (himar-model §5); InputError for
    // another number. Chains that add no noise: solver_chain.h.
    static Chain build(std::int64_t steps);

    // Append a row to the table, rounded to float32.
    void add_row(const std::array<double, 8>& row);
};

constexpr std::int64_t kBaseSteps = 1000;

// ᾱ of the base chain (kBaseSteps), cosine schedule.
std::vector<double> base_alphas_cumprod();

// InputError unless a chain can have so many steps: 2 … kBaseSteps.
void check_chain_length(std::int64_t steps);

}  // namespace himar::core
