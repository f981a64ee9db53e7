#include "reverse_step_launch.h"

#include <algorithm>

#include "reverse_step.cuh"

namespace {

constexpr unsigned kThreads = 128;
constexpr std::uint64_t kMostBlocks = 4096;

__global__ void __launch_bounds__(kThreads)
    run_reverse_step(float* next, const float* x, const float* prediction, const float* noise,
                     const himar::StepParameters* parameters, himar::ReverseStepSizes sizes) {
    himar::DeviceBlock block;
    himar::reverse_step(block, next, x, prediction, noise, parameters, sizes.rows, sizes.halves, sizes.channels,
                        sizes.learned_variance);
}

}  // namespace

cudaError_t himar::launch_reverse_step(float* next, const float* x, const float* prediction, const float* noise,
                                       const float* parameters, const ReverseStepSizes& sizes, cudaStream_t stream) {
    const std::uint64_t items = static_cast<std::uint64_t>(sizes.rows) * ((sizes.channels + 3) / 4);
    if (items == 0) return cudaSuccess;
    const auto blocks = static_cast<unsigned>(std::min((items + kThreads - 1) / kThreads, kMostBlocks));
    run_reverse_step<<<blocks, kThreads, 0, stream>>>(
        next, x, prediction, noise, reinterpret_cast<const StepParameters*>(parameters), sizes);
    return cudaPeekAtLastError();
}
