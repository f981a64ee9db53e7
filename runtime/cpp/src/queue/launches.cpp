#include "queue/launches.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "block.cuh"

namespace himar::core {
namespace {

constexpr u32 kThreads = 128, kBlockWideThreads = 256, kMostBlocks = 4096;  // more work than that is looped over
static_assert(kBlockWideThreads <= kMostThreads, "a block has at most kMostThreads threads");

struct Grid {
    u64 blocks;
    u32 threads;
};

Grid over(u64 items) { return {(items + kThreads - 1) / kThreads, kThreads}; }

// One thread per four channels of every position of every image.
Grid over_quads(u32 batch, u32 positions, u32 C) { return over(static_cast<u64>(batch) * positions * ((C + 3) / 4)); }

// The grid of each kernel, from its parameters.
#define HIMAR_GRID_ranks Grid{batch, kBlockWideThreads}
#define HIMAR_GRID_index_lists Grid{static_cast<u64>(halves) * batch, kBlockWideThreads}
#define HIMAR_GRID_reveal_low Grid{(static_cast<u64>(halves) + 1) * batch * r, kThreads}
#define HIMAR_GRID_start_low over_quads(batch, r, C)
#define HIMAR_GRID_mlp_step over_quads(batch, r, C)
#define HIMAR_GRID_mlp_solve over_quads(batch, r, C)
#define HIMAR_GRID_start_high over_quads(batch, N, C)
#define HIMAR_GRID_dit_step over_quads(batch, N, C)
#define HIMAR_GRID_dit_solve over_quads(batch, N, C)
#define HIMAR_GRID_keep_prediction over_quads(rows, outputs, C)
#define HIMAR_GRID_forecast over_quads(rows, outputs, C)
#define HIMAR_GRID_check_finite over((count + 3) / 4)
#define HIMAR_GRID_latents over(static_cast<u64>(batch) * n * channels)
#define HIMAR_GRID_pack over(static_cast<u64>(batch) * area / 4 + batch)
#define HIMAR_GRID_draw_codes Grid{static_cast<u64>(batch) * T, kBlockWideThreads}
#define HIMAR_GRID_mix_codes Grid{static_cast<u64>(batch) * T, kBlockWideThreads}
#define HIMAR_GRID_least_confident over(static_cast<u64>(batch) * T)
#define HIMAR_GRID_least_confident_of_each over(static_cast<u64>(batch) * T)
#define HIMAR_GRID_show_masked over(static_cast<u64>(batch) * T)
#define HIMAR_GRID_upsample_codes over(static_cast<u64>(batch) * C * H * H)
#define HIMAR_GRID_add_contribution over(static_cast<u64>(batch) * C * H * H)
#define HIMAR_GRID_scale_words over(static_cast<u64>(batch) * C * p * p)
#define HIMAR_GRID_nearest_codes Grid{N, kBlockWideThreads}
#define HIMAR_GRID_subtract over(count)
#define HIMAR_GRID_join_past over_quads(N, P + T, C)

// Compiled with -ffp-contract=off: nothing may fuse a multiplication with an addition (kernels/himar_kernels/cuda/diffusion.cuh).
#define HIMAR_UNWRAP(...) __VA_ARGS__
#define HIMAR_KERNEL(entry, body, words, parameters, arguments)                   \
    void entry(u32 blocks, u32 threads, HIMAR_UNWRAP parameters) {                \
        u32 shared[words];                                                        \
        for (u32 turn = 0; turn < blocks; ++turn) {                               \
            HostBlock block(turn, blocks, threads);                               \
            himar::body(block, shared, HIMAR_UNWRAP arguments);                   \
        }                                                                         \
    }
#include "entries.cuh"

// Takes the arguments from where a launch points to them, as the driver does.
template <auto kFunction, class... P, std::size_t... I>
void call(void (*)(u32, u32, P...), u32 blocks, u32 threads, const void* const* at, std::index_sequence<I...>) {
    kFunction(blocks, threads, *static_cast<const P*>(at[I])...);
}

template <auto kFunction, class... P>
constexpr auto unpacking(void (*)(u32, u32, P...)) {
    return [](u32 blocks, u32 threads, const void* const* at) {
        call<kFunction>(kFunction, blocks, threads, at, std::index_sequence_for<P...>());
    };
}

// Argument types come from `launch`, whose parameters are the kernel's.
template <class... P>
Launch make(Launch (*)(P...), const Kernel& kernel, Grid grid, P... arguments) {
    static_assert(sizeof...(P) <= Launch::kMostArguments && ((sizeof(P) <= 8) && ...));
    Launch launch{&kernel, static_cast<u32>(std::clamp<u64>(grid.blocks, 1, kMostBlocks)), grid.threads, sizeof...(P), {}};
    std::size_t place = 0;
    (std::memcpy(&launch.values[place++], &arguments, sizeof arguments), ...);
    return launch;
}

}  // namespace

std::array<const void*, Launch::kMostArguments> Launch::pointers() const {
    std::array<const void*, kMostArguments> addresses{};
    for (std::size_t i = 0; i < count; ++i) addresses[i] = &values[i];
    return addresses;
}

#define HIMAR_KERNEL(entry, body, words, parameters, arguments)                                  \
    Launch launches::body parameters {                                                           \
        static constexpr Kernel kernel{#entry, unpacking<&entry>(&entry)};                       \
        return make(&launches::body, kernel, HIMAR_GRID_##body, HIMAR_UNWRAP arguments);         \
    }
#include "entries.cuh"

}  // namespace himar::core
