// The tables of an n-step reverse diffusion, as himar_kernels.Chain and chain_table make them.
#pragma once

#include <cstdint>
#include <vector>

namespace himar::core {

struct Chain {
    std::vector<long long> timesteps;  // (n), index of each step in the base chain of 1000; what the heads embed
    std::vector<float> table;          // (n, 8), columns as in struct ChainRow of kernels/cuda/diffusion.cuh

    std::int64_t length() const { return static_cast<std::int64_t>(timesteps.size()); }

    // Compute a chain of 2 … 1000 kept steps in float64 (himar-model §5); InputError for another number.
    static Chain build(std::int64_t steps);
};

}  // namespace himar::core
