// The host functions of every kernel, for the tests: blocks one after another, each with its threads in turn.
//
// A function has its kernel's name and parameters after two more: blocks and threads per block.
#include <algorithm>
#include <vector>

#include "block.cuh"
#include "state.cuh"

using namespace himar;

// What a block of any GPU has without asking for more; nvcc refuses what is above it too.
constexpr u32 kMostSharedWords = 48 * 1024 / sizeof(u32);

#define HIMAR_UNWRAP(...) __VA_ARGS__
#define HIMAR_KERNEL(entry, body, words, parameters, arguments)                                       \
    extern "C" void entry(u32 blocks, u32 threads, HIMAR_UNWRAP parameters) {                         \
        static_assert(words <= kMostSharedWords, "the shared words of " #entry " fit no block");       \
        std::vector<u32> shared(words);                                                               \
        for (u32 turn = 0; turn < blocks; ++turn) {                                                   \
            std::fill(shared.begin(), shared.end(), 0xCDCDCDCDu); /* nothing survives a block */      \
            HostBlock block(HIMAR_TURN(turn, blocks), blocks, threads);                               \
            himar::body(block, shared.data(), HIMAR_UNWRAP arguments);                                \
        }                                                                                             \
    }
#ifdef HIMAR_BACKWARDS
#define HIMAR_TURN(turn, blocks) (blocks - 1 - turn)
#else
#define HIMAR_TURN(turn, blocks) turn
#endif

#include "entries.cuh"
