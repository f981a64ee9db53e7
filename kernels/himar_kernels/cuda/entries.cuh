// Every kernel's name, body, shared words, parameters and arguments, listed once.
//
// kernels.cu makes device entries of the list and host.cpp host functions: whoever includes this defines
// HIMAR_KERNEL(entry, body, shared words, (parameters), (arguments)) first. The parameters are the interface that
// the launches.py of the families fill; H = halves, B = batch, other letters as the bodies explain them.
#include "code_draws.cuh"
#include "conditions.cuh"
#include "forecast.cuh"
#include "high_head.cuh"
#include "index_lists.cuh"
#include "low_head.cuh"
#include "nearest.cuh"
#include "packing.cuh"
#include "past.cuh"
#include "pyramid.cuh"
#include "ranks.cuh"
#include "remask.cuh"
#include "smooth.cuh"

HIMAR_KERNEL(himar_ranks, ranks, himar::kRankTile,
             (u32* ranks, const ImageOrigin* origins, u32 phase, u32 batch, u32 n),
             (ranks, origins, phase, batch, n))

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
             (float* x, i64* timestep, StepState* state, const i64* timesteps, const ImageOrigin* origins,
              const u32* revealed, const float* noise, u32 batch, u32 halves, u32 r, u32 C),
             (x, timestep, state, timesteps, origins, revealed, noise, batch, halves, r, C))

HIMAR_KERNEL(himar_mlp_step, mlp_step, 1,
             (float* x, i64* timestep, float* low_tokens, StepState* state, const i64* timesteps, const float* chain,
              const float* prediction, const ImageOrigin* origins, const u32* revealed, const float* noise,
              u32* fault, u32 batch, u32 halves, u32 S, u32 r, u32 C),
             (x, timestep, low_tokens, state, timesteps, chain, prediction, origins, revealed, noise, fault, batch,
              halves, S, r, C))

HIMAR_KERNEL(himar_mlp_solve, mlp_solve, 1,
             (float* x, float* start, i64* timestep, float* low_tokens, StepState* state, const i64* timesteps,
              const float* chain, const float* prediction, const u32* revealed, u32* fault, u32 batch, u32 halves,
              u32 S, u32 r, u32 C),
             (x, start, timestep, low_tokens, state, timesteps, chain, prediction, revealed, fault, batch, halves, S, r,
              C))

HIMAR_KERNEL(himar_start_high, start_high, 1,
             (float* x, float* initial, i64* timestep, StepState* state, const i64* timesteps, const float* chain,
              const float* tokens, const u32* ranks, const ImageOrigin* origins, const float* noise, u32 batch,
              u32 halves, u32 N, u32 C),
             (x, initial, timestep, state, timesteps, chain, tokens, ranks, origins, noise, batch, halves, N, C))

HIMAR_KERNEL(himar_dit_step, dit_step, 1,
             (float* x, i64* timestep, float* tokens, StepState* state, const i64* timesteps, const float* chain,
              const float* prediction, const float* initial, const u32* ranks, const ImageOrigin* origins,
              const float* noise, u32* fault, u32 batch, u32 halves, u32 N, u32 C),
             (x, timestep, tokens, state, timesteps, chain, prediction, initial, ranks, origins, noise, fault, batch,
              halves, N, C))

HIMAR_KERNEL(himar_dit_solve, dit_solve, 1,
             (float* x, float* start, i64* timestep, float* tokens, StepState* state, const i64* timesteps,
              const float* chain, const float* prediction, const float* initial, const u32* ranks, u32* fault,
              u32 batch, u32 halves, u32 N, u32 C),
             (x, start, timestep, tokens, state, timesteps, chain, prediction, initial, ranks, fault, batch, halves, N,
              C))

HIMAR_KERNEL(himar_keep_prediction, keep_prediction, 1,
             (float* settled, float* differences, float* gap, StepState* state, const float* prediction, u32 rows,
              u32 halves, u32 evaluated, u32 order, u32 outputs, u32 C),
             (settled, differences, gap, state, prediction, rows, halves, evaluated, order, outputs, C))

HIMAR_KERNEL(himar_forecast, forecast, 1,
             (float* settled, const float* differences, const StepState* state, u32 rows, u32 halves, u32 order,
              u32 outputs, u32 C),
             (settled, differences, state, rows, halves, order, outputs, C))

HIMAR_KERNEL(himar_check_finite, check_finite, 1,
             (const float* values, u64 count, const StepState* state, u32* fault, u32 component),
             (values, count, state, fault, component))

HIMAR_KERNEL(himar_latents, latents, 1,
             (float* latents, const float* tokens, float vae_scale, u32 batch, u32 n, u32 channels),
             (latents, tokens, vae_scale, batch, n, channels))

HIMAR_KERNEL(himar_pack, pack, 1, (u8* pixels, const float* images, u32* fault, u32 batch, u32 area),
             (pixels, images, fault, batch, area))

HIMAR_KERNEL(himar_draw_codes, draw_codes, himar::kDrawWords,
             (i64* codes, float* confidence, const float* logits, const float* uniforms, const u8* masked,
              const ImageOrigin* origins, u32* fault, double weight, double top_p, u32 top_k, u32 scale, u32 step,
              u32 component, u32 batch, u32 halves, u32 T, u32 V),
             (codes, confidence, logits, uniforms, masked, origins, fault, weight, top_p, top_k, scale, step,
              component, batch, halves, T, V))

HIMAR_KERNEL(himar_mix_codes, mix_codes, himar::kDrawWords,
             (float* words, const float* logits, const float* gumbel, const float* embedding,
              const ImageOrigin* origins, u32* fault, double weight, double top_p, double lift, double temperature,
              u32 top_k, u32 scale, u32 component, u32 batch, u32 halves, u32 T, u32 V, u32 C),
             (words, logits, gumbel, embedding, origins, fault, weight, top_p, lift, temperature, top_k, scale,
              component, batch, halves, T, V, C))

HIMAR_KERNEL(himar_least_confident, least_confident, 1,
             (u8* chosen, const float* confidence, const u8* among, u32 count, u32 batch, u32 T),
             (chosen, confidence, among, count, batch, T))

HIMAR_KERNEL(himar_least_confident_of_each, least_confident_of_each, 1,
             (u8* chosen, const float* confidence, const u8* among, const u32* counts, u32 batch, u32 T),
             (chosen, confidence, among, counts, batch, T))

HIMAR_KERNEL(himar_show_masked, show_masked, 1, (float* shown, const u8* masked, u32 batch, u32 halves, u32 T),
             (shown, masked, batch, halves, T))

HIMAR_KERNEL(himar_upsample_codes, upsample_codes, 1,
             (float* grid, const i64* codes, const float* embedding, const float* up, u32 batch, u32 p, u32 H, u32 C),
             (grid, codes, embedding, up, batch, p, H, C))

HIMAR_KERNEL(himar_add_contribution, add_contribution, 1,
             (float* own, float* latent, const float* grid, const float* weights, const float* biases, u32 k,
              u32 batch, u32 H, u32 C),
             (own, latent, grid, weights, biases, k, batch, H, C))

HIMAR_KERNEL(himar_scale_words, scale_words, 1,
             (float* words, const float* latent, const float* own, const u8* masked, const float* down, u32 batch,
              u32 halves, u32 p, u32 side, u32 C),
             (words, latent, own, masked, down, batch, halves, p, side, C))

HIMAR_KERNEL(himar_nearest_codes, nearest_codes, himar::kNearestWords,
             (i64* codes, const float* words, const float* embedding, u32 N, u32 V, u32 C),
             (codes, words, embedding, N, V, C))

HIMAR_KERNEL(himar_subtract, subtract, 1, (float* rest, const float* part, u32 count), (rest, part, count))

HIMAR_KERNEL(himar_join_past, join_past, 1,
             (float* joined, const float* past, const float* own, u32 N, u32 P, u32 T, u32 C),
             (joined, past, own, N, P, T, C))

#undef HIMAR_KERNEL
