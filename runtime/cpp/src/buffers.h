// The memory of one lane: everything that the loop keeps, allocated at once for a number of images.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels.h"
#include "layout.h"
#include "manifest.h"

namespace himar::core {

// Widths of the conditions that the transformers hand to the heads.
struct Widths {
    std::int64_t mlp, dit;
};

// Latents decoded together: the decoder's activations are large, and a few images already fill a device.
constexpr std::int64_t kDecodeBatch = 8;

// Shapes for B = batch; rows are [conditional; unconditional]. Those of himar_runtime/resident/buffers.py that
// hold a run's state, with each head's own where Python's phases share one.
class Buffers {
public:
    // Allocate everything as one block. InputError when a launch over so many images has more items than the kernels
    // can number.
    Buffers(const ModelInfo& model, std::int64_t batch, Widths widths, const Allocate& allocate);

    std::int64_t batch() const { return batch_; }

    StepState* state;
    u32* fault;
    u32* images;           // (B), image indices
    i64* class_row;        // (2B)
    i64* timestep;         // (1), what the heads read
    u32* low_ranks;        // (B, S)
    u32* high_ranks;       // (B, N)
    u32* revealed;         // (B, max(S, N))
    i64* visible;          // (2B, K + S + N)
    i64* sources;          // (2B, K + S + N)
    float* low_tokens;     // (2B, S, C)
    float* pivots;         // (2B, S, D)
    float* tokens;         // (2B, N, C)
    float* engine_pivots;  // (2B, S, D)
    float* low_condition;  // (2B, S, W of the MLP head)
    float* head_condition; // the same, revealed rows only
    float* mlp_x;          // (2B·S, C)
    float* mlp_prediction; // (2B·S, 2C)
    float* high_condition; // (2B, N, W of the DiT head)
    float* initial;        // (B, N, C)
    float* dit_x;          // (2B, N, C)
    float* dit_prediction; // (2B, N, C)
    float* start;          // (B, max(S, N), C), x̂0 between the steps of a solver, of either head
    float* low_latents;    // (B, C, S)
    float* latents;        // (B, C, N)
    float* image;          // (kDecodeBatch, 3, H, W)

private:
    std::size_t place_all(void* block, const ModelInfo& model, Widths widths);

    std::int64_t batch_;
    std::shared_ptr<void> block_;
};

// Memory of the host; std::bad_alloc when there is none.
std::shared_ptr<void> allocate_host(std::size_t bytes);

}  // namespace himar::core
