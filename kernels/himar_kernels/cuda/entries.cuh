// Every kernel's name, body, shared words, parameters and arguments, listed once.
//
// kernels.cu makes device entries of the list and host.cpp host functions: whoever includes this defines
// HIMAR_KERNEL(entry, body, shared words, (parameters), (arguments)) first. The parameters are the interface that
// himar_kernels/launches.py fills; H = halves, B = batch, other letters as the bodies explain them.
#include "conditions.cuh"
#include "high_head.cuh"
#include "index_lists.cuh"
#include "low_head.cuh"
#include "packing.cuh"
#include "ranks.cuh"

HIMAR_KERNEL(himar_ranks, ranks, himar::kRankTile,
             (u32* ranks, const u32* images, const StepState* state, u32 phase, u32 batch, u32 n),
             (ranks, images, state, phase, batch, n))

HIMAR_KERNEL(himar_index_lists, index_lists, himar::kScanWords,
             (i64* visible, i64* sources, u32* revealed, const u32* ranks, const StepState* state, u32 batch,
              u32 halves, u32 context, u32 always, u32 n, u32 positions),
             (visible, sources, revealed, ranks, state, batch, halves, context, always, n, positions))

HIMAR_KERNEL(himar_reveal_low, reveal_low, 1,
             (float* head_condition, float* pivots, const float* condition, const float* engine_pivots,
              const u32* revealed, const StepState* state, u32* fault, u32 batch, u32 halves, u32 S, u32 r, u32 W,
              u32 D),
             (head_condition, pivots, condition, engine_pivots, revealed, state, fault, batch, halves, S, r, W, D))

HIMAR_KERNEL(himar_start_low, start_low, 1,
             (float* x, i64* timestep, StepState* state, const i64* timesteps, const u32* images, const u32* revealed,
              const float* noise, u32 batch, u32 halves, u32 r, u32 C),
             (x, timestep, state, timesteps, images, revealed, noise, batch, halves, r, C))

HIMAR_KERNEL(himar_mlp_step, mlp_step, 1,
             (float* x, i64* timestep, float* low_tokens, StepState* state, const i64* timesteps, const float* chain,
              const float* prediction, const u32* images, const u32* revealed, const float* noise, u32* fault,
              u32 batch, u32 halves, u32 S, u32 r, u32 C),
             (x, timestep, low_tokens, state, timesteps, chain, prediction, images, revealed, noise, fault, batch,
              halves, S, r, C))

HIMAR_KERNEL(himar_mlp_solve, mlp_solve, 1,
             (float* x, float* start, i64* timestep, float* low_tokens, StepState* state, const i64* timesteps,
              const float* chain, const float* prediction, const u32* revealed, u32* fault, u32 batch, u32 halves,
              u32 S, u32 r, u32 C),
             (x, start, timestep, low_tokens, state, timesteps, chain, prediction, revealed, fault, batch, halves, S, r,
              C))

HIMAR_KERNEL(himar_start_high, start_high, 1,
             (float* x, float* initial, i64* timestep, StepState* state, const i64* timesteps, const float* chain,
              const float* tokens, const u32* ranks, const u32* images, const float* noise, u32 batch, u32 halves,
              u32 N, u32 C),
             (x, initial, timestep, state, timesteps, chain, tokens, ranks, images, noise, batch, halves, N, C))

HIMAR_KERNEL(himar_dit_step, dit_step, 1,
             (float* x, i64* timestep, float* tokens, StepState* state, const i64* timesteps, const float* chain,
              const float* prediction, const float* initial, const u32* ranks, const u32* images, const float* noise,
              u32* fault, u32 batch, u32 halves, u32 N, u32 C),
             (x, timestep, tokens, state, timesteps, chain, prediction, initial, ranks, images, noise, fault, batch,
              halves, N, C))

HIMAR_KERNEL(himar_dit_solve, dit_solve, 1,
             (float* x, float* start, i64* timestep, float* tokens, StepState* state, const i64* timesteps,
              const float* chain, const float* prediction, const float* initial, const u32* ranks, u32* fault,
              u32 batch, u32 halves, u32 N, u32 C),
             (x, start, timestep, tokens, state, timesteps, chain, prediction, initial, ranks, fault, batch, halves, N,
              C))

HIMAR_KERNEL(himar_check_finite, check_finite, 1,
             (const float* values, u64 count, const StepState* state, u32* fault, u32 component),
             (values, count, state, fault, component))

HIMAR_KERNEL(himar_latents, latents, 1,
             (float* latents, const float* tokens, float vae_scale, u32 batch, u32 n, u32 channels),
             (latents, tokens, vae_scale, batch, n, channels))

HIMAR_KERNEL(himar_pack, pack, 1, (u8* pixels, const float* images, u32* fault, u32 batch, u32 area),
             (pixels, images, fault, batch, area))

#undef HIMAR_KERNEL
