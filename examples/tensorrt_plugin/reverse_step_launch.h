// The launch of the plugin's kernel, apart from it so that the plugin itself is plain C++.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace himar {

// One launch's sizes: M rows of C channels, H halves of the prediction, and whether it holds the variance (MLP head).
struct ReverseStepSizes {
    std::uint32_t rows;
    std::uint32_t halves;
    std::uint32_t channels;
    bool learned_variance;
};

// Queues the step of reverse_step.cuh on `stream`; all pointers are device addresses of float32.
cudaError_t launch_reverse_step(float* next, const float* x, const float* prediction, const float* noise,
                                const float* parameters, const ReverseStepSizes& sizes, cudaStream_t stream);

}  // namespace himar
