// The device entries of every kernel: the one source that nvcc (ahead of time) and NVRTC (at run time) compile.
#include "block.cuh"
#include "state.cuh"

using namespace himar;

#define HIMAR_UNWRAP(...) __VA_ARGS__
#define HIMAR_KERNEL(entry, body, words, parameters, arguments)                     \
    extern "C" __global__ void __launch_bounds__(himar::kMostThreads) entry parameters { \
        __shared__ u32 shared[words];                                               \
        DeviceBlock block;                                                          \
        himar::body(block, shared, HIMAR_UNWRAP arguments);                         \
    }

#include "entries.cuh"
