// The tables of an n-step way from noise to tokens, as himar_kernels' build_chain and chain_table make them: of the
// paper's reverse steps, and of DDIM and DPM-Solver++(2M), which add no noise (himar_kernels/solvers.py).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace himar::core::hi_mar {

struct Chain {
    static constexpr std::int64_t kMost = 1000, kColumns = 8;  // steps of the base chain, and of a table's row

    std::vector<long long> timesteps;  // (n), index of each step in the base chain; what the heads embed
    std::vector<float> table;          // (n, 8), columns as in struct ChainRow or SolverRow of himar_kernels/cuda/*.cuh
    bool adds_noise = true;            // ChainRow, for the kernels *_step; else SolverRow, for *_solve

    std::int64_t length() const { return static_cast<std::int64_t>(timesteps.size()); }

    // Append a row to the table, rounded to float32.
    void add_row(const std::array<double, kColumns>& row);
};

// Compute the chain of 2 … 1000 steps (else InputError) that a checked solver's name means, in float64.
Chain build_chain(const std::string& solver, std::int64_t steps);

}  // namespace himar::core::hi_mar
