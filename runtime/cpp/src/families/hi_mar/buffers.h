// The memory of one lane: everything that the loop keeps, allocated at once for a number of images.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "families/hi_mar/model.h"
#include "queue/queue.h"

namespace himar::core::hi_mar {

// What each phase has to itself; n is the number of its positions.
struct PhaseBuffers {
    i64* timesteps;  // (chain length)
    float* chain;    // (chain length, 8)
    u32* ranks;      // (B, n)
    float* tokens;   // (2B, n, C)
};

// The buffers of himar_runtime/families/hi_mar/resident/buffers.py. Shapes for B = batch; rows are [conditional; unconditional]. What
// only a step needs is shared by the phases and has room for the larger one; W is the width of a head's condition.
class Buffers {
public:
    // Allocate everything as one block. widths: W of each phase. InputError when a launch over so many images has more
    // items than the kernels can number.
    Buffers(const HiMarModel& model, std::int64_t batch, const std::vector<std::int64_t>& widths, Queue& queue);

    // The bytes that they take; InputError too.
    static std::size_t bytes(const HiMarModel& model, std::int64_t batch, const std::vector<std::int64_t>& widths);

    std::int64_t batch() const { return batch_; }

    PhaseBuffers phases[2];
    StepState* state;
    StepState* steps;       // (T), one for every autoregressive step
    u32* fault;
    ImageOrigin* origins;   // (B)
    i64* class_row;         // (2B), or of a model from text
    i64* tokens;            // (B, K)
    float* context;         // (2B, K, W of a context)
    i64* timestep;          // (1), what the heads read
    u32* revealed;          // (B, n)
    i64* visible;           // (2B, K + S + N)
    i64* sources;           // (2B, K + S + N)
    float* noise;           // (B, n, C), noise that the caller gives
    float* pivots;          // (2B, S, D)
    float* engine_pivots;   // (2B, S, D)
    i64* guides[2];         // (B, S), (2B, S): what phase high sees at low positions of an edit, of one half and of two
    float* condition;       // (2B, n, W)
    float* head_condition;  // (2B·r, W), the revealed rows, before an MLP head
    float* initial;         // (B, n, C), of a DiT head
    float* start;           // (B, n, C), x̂0 between the steps of a solver
    float* x;               // (2B·r, C) of an MLP head, (2B, n, C) of a DiT head
    float* prediction;      // (2B·r, 2C) of an MLP head, (2B, n, C) of a DiT head
    float* settled;         // as prediction: what reverse steps take where evaluations are left out
    float* differences;     // (order + 1, half of prediction): what forecasts are made from
    float* gap;             // (B·r, C) of an MLP head, (B, n, C) of a DiT head: conditional less unconditional noise
    float* preview;         // (B, C, S), latents of phase low
    float* latents;         // (B, C, N)
    float* image;           // (kDecodeBatch, 3, H, W), also of an edit's images in the size of either phase
    u8* pixels;             // (B, H, W, 3)

private:
    explicit Buffers(std::int64_t batch) : batch_(batch) {}  // of no memory
    std::size_t place_all(void* block, const HiMarModel& model, const std::vector<std::int64_t>& widths);

    std::int64_t batch_;
    std::shared_ptr<void> block_;
};

}  // namespace himar::core::hi_mar
