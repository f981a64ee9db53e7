// Chains that add no noise, DDIM and DPM-Solver++(2M), as himar_kernels/solvers.py makes them; it says what they are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "chain.h"

namespace himar::core {

// The base steps (n) of a solver's chain, ascending: even in λ, half the log signal-to-noise ratio, from 3 to -3.
std::vector<long long> spaced_timesteps(std::int64_t steps);

// The chain of 2 … 1000 steps (else InputError) that a checked solver's name means; "ddpm" is Chain::build's.
Chain build_chain(const std::string& solver, std::int64_t steps);

}  // namespace himar::core
