// The kernels of himar (kernels/himar_kernels/cuda/*.cuh) as host functions: the same text that runs on a GPU, one thread.
//
// Every function has its kernel's name and parameters; the .cuh files say what it does with them. Pointers must be
// aligned to 16 bytes where rows are read that way, which Buffers sees to.
#pragma once

#include "philox.cuh"
#include "state.cuh"

namespace himar::core::kernels {

// One declaration per entry of entries.cuh; kernels.cpp holds them to it.
void ranks(u32* ranks, const u32* images, const StepState* state, u32 phase, u32 batch, u32 n);
void index_lists(i64* visible, i64* sources, u32* revealed, const u32* ranks, const StepState* state, u32 batch,
                 u32 halves, u32 context, u32 always, u32 n, u32 positions);
void reveal_low(float* head_condition, float* pivots, const float* condition, const float* engine_pivots,
                const u32* revealed, const StepState* state, u32* fault, u32 batch, u32 halves, u32 S, u32 r, u32 W,
                u32 D);
void start_low(float* x, i64* timestep, StepState* state, const i64* timesteps, const u32* images, const u32* revealed,
               const float* noise, u32 batch, u32 halves, u32 r, u32 C);
void mlp_step(float* x, i64* timestep, float* low_tokens, StepState* state, const i64* timesteps, const float* chain,
              const float* prediction, const u32* images, const u32* revealed, const float* noise, u32* fault,
              u32 batch, u32 halves, u32 S, u32 r, u32 C);
void mlp_solve(float* x, float* start, i64* timestep, float* low_tokens, StepState* state, const i64* timesteps,
               const float* chain, const float* prediction, const u32* revealed, u32* fault, u32 batch, u32 halves,
               u32 S, u32 r, u32 C);
void start_high(float* x, float* initial, i64* timestep, StepState* state, const i64* timesteps, const float* chain,
                const float* tokens, const u32* ranks, const u32* images, const float* noise, u32 batch, u32 halves,
                u32 N, u32 C);
void dit_step(float* x, i64* timestep, float* tokens, StepState* state, const i64* timesteps, const float* chain,
              const float* prediction, const float* initial, const u32* ranks, const u32* images, const float* noise,
              u32* fault, u32 batch, u32 halves, u32 N, u32 C);
void dit_solve(float* x, float* start, i64* timestep, float* tokens, StepState* state, const i64* timesteps,
               const float* chain, const float* prediction, const float* initial, const u32* ranks, u32* fault,
               u32 batch, u32 halves, u32 N, u32 C);
void check_finite(const float* values, u64 count, const StepState* state, u32* fault, u32 component);
void latents(float* latents, const float* tokens, float vae_scale, u32 batch, u32 n, u32 channels);
void pack(u8* pixels, const float* images, u32* fault, u32 batch, u32 area);

}  // namespace himar::core::kernels
