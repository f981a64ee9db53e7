// Compiled with -ffp-contract=off: nothing may fuse a product with a sum (kernels/himar_kernels/cuda/diffusion.cuh).
#include "kernels.h"

#include "block.cuh"

using himar::HostBlock;
using himar::u32;

// One block of one thread; a kernel's shared words lie on the stack.
#define HIMAR_UNWRAP(...) __VA_ARGS__
#define HIMAR_KERNEL(entry, body, words, parameters, arguments)            \
    void himar::core::kernels::body parameters {                           \
        u32 shared[words];                                                 \
        HostBlock block(0, 1, 1);                                          \
        himar::body(block, shared, HIMAR_UNWRAP arguments);                \
    }

#include "entries.cuh"
