// One launch of each kernel as data: which entry of kernels.cu, how many blocks and threads, which arguments.
//
// The counterpart of the families' launches.py, with their grids. Whoever can run a Launch runs the kernels.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

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

namespace himar::core {

// A kernel by the name of its entry, and the same text compiled for the host: blocks and threads run in turn.
struct Kernel {
    const char* entry;
    void (*on_host)(u32 blocks, u32 threads, const void* const* arguments);
};

struct Launch {
    static constexpr std::size_t kMostArguments = 20;

    const Kernel* kernel;
    u32 blocks, threads;
    std::size_t count;                                 // of arguments
    std::array<std::uint64_t, kMostArguments> values;  // each in the first bytes of its word

    // Addresses of the arguments in order, as cuLaunchKernel takes them; valid while the launch is.
    std::array<const void*, kMostArguments> pointers() const;
};

// A function for every entry of entries.cuh with its kernel's name and parameters; the .cuh files say what it does with
// them. The sizes are those of the family's buffers, which have checked that the kernels can number their items.
namespace launches {
#define HIMAR_KERNEL(entry, body, words, parameters, arguments) Launch body parameters;
#include "entries.cuh"
}  // namespace launches

}  // namespace himar::core
