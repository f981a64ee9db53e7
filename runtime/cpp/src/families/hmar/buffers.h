// The memory of one lane, and what all lanes of a model read: codebook and maps between scales.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "families/hmar/model.h"
#include "queue/queue.h"

namespace himar::core::hmar {

// Written once; shared by clones, whose queues are of the same device.
class Constants {
public:
    // BundleError where an array of the codebook is not there.
    Constants(const HmarModel& model, const Bundle& bundle, Queue& queue);

    float *embedding, *weights, *biases;  // of the tokenizer's codebook
    std::vector<float*> up, down;         // of each scale: (H, pn_s), (pn_s, H)

private:
    std::size_t place_all(void* block, const HmarModel& model);

    std::shared_ptr<void> block_;
};

// What `conditions` makes of the class rows, in the order of its outputs; rows are [conditional; unconditional], so that the
// first half is what a forward without guidance takes. Null where the model has no such blocks or network.
struct Conditions {
    float* cond;                    // (2B, C)
    float *trunk, *tail, *masked;   // (2B, blocks, 6, C)
    float *tail_head, *masked_head; // (2B, 2, C)
};

// Shapes for B = batch; T is of the finest scale, and smaller scales use the first part.
class Buffers {
public:
    // Allocate everything as one block. InputError when a launch over so many images has more items than the kernels can
    // number.
    Buffers(const HmarModel& model, std::int64_t batch, Queue& queue);

    // The bytes that they take; InputError too.
    static std::size_t bytes(const HmarModel& model, std::int64_t batch) { return Buffers(batch).place_all(nullptr, model); }

    std::int64_t batch() const { return batch_; }

    Conditions conditions;
    ImageOrigin* origins;  // (B)
    u32* fault;            // (1)
    StepState* state;     // zeros, for kernels that name a step in the fault word
    i64* class_row;       // (2B)
    i64* places;          // 0, 1 … max(L, B·T)
    i64* codes;           // (B, T_s) of one scale after the other
    float* zeros;         // (2B, max(C, T))
    float* words;         // (2B, T, Cv)
    float* shown;         // (2B, T), masked cells as the trunk takes them
    u8* masked[2];        // (B, T), of this step and of the next
    u8* edited;           // (B, T_s) of one scale after the other, cells that an edit draws
    u32* redrawn;         // (B) of each forward, cells that the next step of an edit redraws
    float* confidence;    // (B, T)
    float* uniforms;      // (B, T), given by the caller
    float* x;             // (2B, T, C)
    float* logits;        // (2B, T, V)
    float* grid;          // (B, Cv, H, H)
    float* own;           // (B, Cv, H, H)
    float* latent;        // (B, Cv, H, H)
    float* image;         // (kDecodeBatch, 3, 16H, 16H), also of an edit's images
    u8* pixels;           // (B, 16H, 16H, 3)

private:
    explicit Buffers(std::int64_t batch) : batch_(batch) {}  // of no memory
    std::size_t place_all(void* block, const HmarModel& model);

    std::int64_t batch_;
    std::shared_ptr<void> block_;
};

// Of a smooth preview: what is mixed of each cell, and noise that the caller gives.
struct SmoothBuffers {
    SmoothBuffers(const HmarModel& model, std::int64_t batch, Queue& queue);

    std::int64_t batch;
    float *mixed, *gumbel;  // (B, T, Cv), (B, T, V)
    std::shared_ptr<void> block;
};

// Keys and values of the coarser scales, (2B, blocks, P, C), and of one scale, (2B, blocks, T, C): with all scales in view.
struct PastBuffers {
    PastBuffers(const HmarModel& model, std::int64_t blocks, std::int64_t batch, Queue& queue);

    // The bytes that they take; InputError for more than any memory has.
    static std::size_t bytes(const HmarModel& model, std::int64_t blocks, std::int64_t batch) {
        return PastBuffers(batch).place_all(nullptr, model, blocks);
    }

    std::int64_t batch;
    float* past[2][2];  // [keys, values] before this scale, and with it
    float* own[2];
    std::shared_ptr<void> block;

private:
    explicit PastBuffers(std::int64_t images) : batch(images) {}  // of no memory
    std::size_t place_all(void* memory, const HmarModel& model, std::int64_t blocks);
};

}  // namespace himar::core::hmar
