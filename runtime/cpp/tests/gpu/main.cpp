// himar_gpu_tests: what only a GPU can show. Ends with 77, and says why, where there is none: ctest counts it as skipped.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

#include "error.h"
#include "queue/cuda/queue.h"

int main(int count, char** arguments) {
    constexpr int skipped = 77;
    try {
        himar::core::cuda::compute_capability(0);
        if (himar::core::cuda::compiled_kernels().empty()) {
            std::puts("skipped: this build has no CUDA kernels; configure it with -DHIMAR_CUDA=ON.");
            return skipped;
        }
    } catch (const himar::core::EngineError& error) {
        std::printf("skipped: %s\n", error.what());
        return skipped;
    }
    return doctest::Context(count, arguments).run();
}
