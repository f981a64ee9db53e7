// What a lane's buffers hold besides where the loop is resident: what the host sends ahead, and what it takes home.
#pragma once

#include <cstdint>
#include <memory>

#include "../kernels.h"
#include "../layout.h"
#include "../manifest.h"

namespace himar::core {

// Shapes for B = batch; what the loop on the host has too is in Buffers.
class Tables {
public:
    Tables(const ModelInfo& model, std::int64_t batch, const Allocate& allocate);

    StepState* steps;      // (T), one for every autoregressive step
    i64* low_timesteps;    // (n)
    i64* high_timesteps;
    float* low_chain;      // (n, 8)
    float* high_chain;
    float* noise;          // (B, max(S, N), C), noise that the host gives
    u8* pixels;            // (B, H, W, 3)

private:
    std::size_t place_all(void* block, const ModelInfo& model, std::int64_t batch);

    std::shared_ptr<void> block_;
};

}  // namespace himar::core
