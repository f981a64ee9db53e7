#include "launches.h"

#include <algorithm>
#include <cstring>

#include "../kernels.h"

namespace himar::core {
namespace {

constexpr u32 kThreads = 128, kBlockWideThreads = 256, kMostBlocks = 4096;  // more work than that is looped over
static_assert(kBlockWideThreads <= kMostThreads, "a block has at most kMostThreads threads");

template <class T>
struct Exactly {
    using Type = T;
};

// `kernel`, the host function of the same kernel, is here for its parameters' types alone: the compiler then holds the
// arguments to them.
template <class... Parameters>
Launch make(void (*)(Parameters...), const char* entry, std::uint64_t blocks, u32 threads,
            typename Exactly<Parameters>::Type... arguments) {
    static_assert(sizeof...(Parameters) <= Launch::kMostArguments && ((sizeof(Parameters) <= 8) && ...));
    Launch launch{entry, static_cast<u32>(std::clamp<std::uint64_t>(blocks, 1, kMostBlocks)), threads,
                  sizeof...(Parameters), {}};
    std::size_t place = 0;
    (std::memcpy(&launch.values[place++], &arguments, sizeof arguments), ...);
    return launch;
}

std::uint64_t blocks_of(std::uint64_t items) { return (items + kThreads - 1) / kThreads; }

// Blocks for one thread per four channels of every position of every image.
std::uint64_t quad_blocks(u32 batch, u32 positions, u32 C) {
    return blocks_of(static_cast<std::uint64_t>(batch) * positions * ((C + 3) / 4));
}

}  // namespace

std::array<void*, Launch::kMostArguments> Launch::pointers() {
    std::array<void*, kMostArguments> addresses{};
    for (std::size_t i = 0; i < count; ++i) addresses[i] = &values[i];
    return addresses;
}

Launch launches::ranks(u32* ranks, const u32* images, const StepState* state, u32 phase, u32 batch, u32 n) {
    return make(kernels::ranks, "himar_ranks", batch, kBlockWideThreads, ranks, images, state, phase, batch, n);
}

Launch launches::index_lists(i64* visible, i64* sources, u32* revealed, const u32* ranks, const StepState* state,
                             u32 batch, u32 halves, u32 context, u32 always, u32 n, u32 positions) {
    return make(kernels::index_lists, "himar_index_lists", static_cast<std::uint64_t>(halves) * batch, kBlockWideThreads,
                visible, sources, revealed, ranks, state, batch, halves, context, always, n, positions);
}

Launch launches::reveal_low(float* head_condition, float* pivots, const float* condition, const float* engine_pivots,
                            const u32* revealed, const StepState* state, u32* fault, u32 batch, u32 halves, u32 S,
                            u32 r, u32 W, u32 D) {
    return make(kernels::reveal_low, "himar_reveal_low", (static_cast<std::uint64_t>(halves) + 1) * batch * r, kThreads,
                head_condition, pivots, condition, engine_pivots, revealed, state, fault, batch, halves, S, r, W, D);
}

Launch launches::start_low(float* x, i64* timestep, StepState* state, const i64* timesteps, const u32* images,
                           const u32* revealed, const float* noise, u32 batch, u32 halves, u32 r, u32 C) {
    return make(kernels::start_low, "himar_start_low", quad_blocks(batch, r, C), kThreads, x, timestep, state, timesteps,
                images, revealed, noise, batch, halves, r, C);
}

Launch launches::mlp_step(float* x, i64* timestep, float* low_tokens, StepState* state, const i64* timesteps,
                          const float* chain, const float* prediction, const u32* images, const u32* revealed,
                          const float* noise, u32* fault, u32 batch, u32 halves, u32 S, u32 r, u32 C) {
    return make(kernels::mlp_step, "himar_mlp_step", quad_blocks(batch, r, C), kThreads, x, timestep, low_tokens, state,
                timesteps, chain, prediction, images, revealed, noise, fault, batch, halves, S, r, C);
}

Launch launches::mlp_solve(float* x, float* start, i64* timestep, float* low_tokens, StepState* state,
                           const i64* timesteps, const float* chain, const float* prediction, const u32* revealed,
                           u32* fault, u32 batch, u32 halves, u32 S, u32 r, u32 C) {
    return make(kernels::mlp_solve, "himar_mlp_solve", quad_blocks(batch, r, C), kThreads, x, start, timestep,
                low_tokens, state, timesteps, chain, prediction, revealed, fault, batch, halves, S, r, C);
}

Launch launches::start_high(float* x, float* initial, i64* timestep, StepState* state, const i64* timesteps,
                            const float* chain, const float* tokens, const u32* ranks, const u32* images,
                            const float* noise, u32 batch, u32 halves, u32 N, u32 C) {
    return make(kernels::start_high, "himar_start_high", quad_blocks(batch, N, C), kThreads, x, initial, timestep, state,
                timesteps, chain, tokens, ranks, images, noise, batch, halves, N, C);
}

Launch launches::dit_step(float* x, i64* timestep, float* tokens, StepState* state, const i64* timesteps,
                          const float* chain, const float* prediction, const float* initial, const u32* ranks,
                          const u32* images, const float* noise, u32* fault, u32 batch, u32 halves, u32 N, u32 C) {
    return make(kernels::dit_step, "himar_dit_step", quad_blocks(batch, N, C), kThreads, x, timestep, tokens, state,
                timesteps, chain, prediction, initial, ranks, images, noise, fault, batch, halves, N, C);
}

Launch launches::dit_solve(float* x, float* start, i64* timestep, float* tokens, StepState* state,
                           const i64* timesteps, const float* chain, const float* prediction, const float* initial,
                           const u32* ranks, u32* fault, u32 batch, u32 halves, u32 N, u32 C) {
    return make(kernels::dit_solve, "himar_dit_solve", quad_blocks(batch, N, C), kThreads, x, start, timestep, tokens,
                state, timesteps, chain, prediction, initial, ranks, fault, batch, halves, N, C);
}

Launch launches::check_finite(const float* values, u64 count, const StepState* state, u32* fault, u32 component) {
    return make(kernels::check_finite, "himar_check_finite", blocks_of((count + 3) / 4), kThreads, values, count, state,
                fault, component);
}

Launch launches::latents(float* latents, const float* tokens, float vae_scale, u32 batch, u32 n, u32 channels) {
    return make(kernels::latents, "himar_latents", blocks_of(static_cast<std::uint64_t>(batch) * n * channels), kThreads,
                latents, tokens, vae_scale, batch, n, channels);
}

Launch launches::pack(u8* pixels, const float* images, u32* fault, u32 batch, u32 area) {
    return make(kernels::pack, "himar_pack", blocks_of(static_cast<std::uint64_t>(batch) * area / 4 + batch), kThreads,
                pixels, images, fault, batch, area);
}

}  // namespace himar::core
