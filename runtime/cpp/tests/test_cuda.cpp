// What is said where there is no GPU, no driver, or one that engines do not fit; and the kernels that are carried along.
#include <doctest/doctest.h>

#include <cstring>
#include <string>

#include "bundles.h"
#include "engines/tensorrt/fit.h"
#include "error.h"
#include "queue/cuda/program.h"
#include "queue/cuda/queue.h"

using namespace himar::core;

namespace {

bool has_driver() {
    try {
        cuda::driver();
        return true;
    } catch (const EngineError&) {
        return false;
    }
}

BackendInfo built_for(const std::string& version) {
    return {"tensorrt", version, std::nullopt, std::nullopt, std::nullopt, false};
}

std::string refused(const BackendInfo& built, const TensorRTVersion& library, cuda::Capability capability = {9, 0}) {
    return sentence_of<EngineError>([&] { check_fit("dit_head", built, library, capability); });
}

const TensorRTVersion kFull{"tensorrt", "11.4.0.106", false}, kLean{"tensorrt_lean", "11.4.0.106", true};

}  // namespace

TEST_SUITE_BEGIN("cuda");

TEST_CASE("a driver that is not there, or is none, is a sentence") {
    const std::string absent = sentence_of<EngineError>([] { cuda::open_driver("libno-such-driver.so.1"); });
    holds(absent, "CUDA cannot be used here: libno-such-driver.so.1: cannot open shared object file");
    holds(absent, "; install NVIDIA's driver.");
    CHECK(sentence_of<EngineError>([] { cuda::open_driver("libm.so.6"); }) ==
          "CUDA cannot be used here: the driver has no cuInit; install NVIDIA's driver 525 or a later one.");
}

TEST_CASE("a GPU that is not there is refused by its name" * doctest::skip(has_driver())) {
    const std::string said = sentence_of<EngineError>([] { cuda::CudaQueue::open(3, false); });
    holds(said, "cuda:3 is not a GPU that can be used here: CUDA cannot be used here: libcuda.so.1");
    holds(said, "install NVIDIA's driver. `nvidia-smi -L` lists the GPUs; without one, use device 'cpu'.");
}

TEST_CASE("the kernels in the library are an image that CUDA loads") {
    const std::string_view image = cuda::compiled_kernels();
    if (image.empty()) {
        MESSAGE("this build has no CUDA kernels");
        CHECK(sentence_of<EngineError>([] { cuda::Program program(cuda::compiled_kernels()); }) ==
              "this build of himar's C++ runtime has no CUDA kernels, since nvcc was not found when it was configured; "
              "configure it with -DHIMAR_CUDA=ON and nvcc on the PATH, or use device 'cpu'.");
        return;
    }
    constexpr unsigned kFatbin = 0xBA55ED50;  // what cuLibraryLoadData knows a fat binary by
    unsigned magic = 0;
    std::memcpy(&magic, image.data(), sizeof magic);
    CHECK(magic == kFatbin);
    CHECK(reinterpret_cast<std::uintptr_t>(image.data()) % 8 == 0);
    // Behind the header of 16 bytes stands the size of all that follows.
    std::uint64_t size = 0;
    std::memcpy(&size, image.data() + 8, sizeof size);
    CHECK(size + 16 == image.size());
}

TEST_CASE("engines run with the library that built them, and others say so") {
    CHECK_NOTHROW(check_fit("dit_head", built_for("11.4.0.106"), kFull, {9, 0}));
    CHECK(refused(built_for("10.13.3.9"), kFull) ==
          "the engine of dit_head needs tensorrt 10.13.3.9, which built it, but tensorrt 11.4.0.106 is installed here; "
          "install that, or build the bundle again with this one (for any later one, with --version-compatible).");
    holds(refused(built_for("11.4.0.106"), kLean), "but tensorrt_lean 11.4.0.106 is installed here");
    BackendInfo compatible = built_for("10.13.3.9");
    compatible.version_compatible = true;
    CHECK_NOTHROW(check_fit("dit_head", compatible, kFull, {9, 0}));
    CHECK_NOTHROW(check_fit("dit_head", compatible, kLean, {9, 0}));
}

TEST_CASE("engines run on the GPUs that the manifest names") {
    BackendInfo built = built_for("11.4.0.106");
    built.compute_capability = "8.9";
    CHECK(refused(built, kFull) ==
          "the engine of dit_head was built for GPUs of compute capability 8.9 alone, but this one has 9.0; build the "
          "bundle again on this machine, or with the backend onnxruntime, whose engines run on any GPU.");
    CHECK_NOTHROW(check_fit("dit_head", built, kFull, {8, 9}));
    built.compute_capability.reset();
    built.compute_capabilities = {"8.0", "8.6"};
    holds(refused(built, kFull), "compute capabilities 8.0, 8.6, but this one has 9.0");
    CHECK_NOTHROW(check_fit("dit_head", built, kFull, {8, 6}));
    built.compute_capabilities.reset();
    built.least_compute_capability = "10.0";  // more than 9.0, as numbers
    holds(refused(built, kFull), "compute capability 10.0 and later, but this one has 9.0");
    CHECK_NOTHROW(check_fit("dit_head", built, kFull, {10, 0}));
    CHECK_NOTHROW(check_fit("dit_head", built, kFull, {12, 1}));
    built.least_compute_capability = "8.0";
    CHECK_NOTHROW(check_fit("dit_head", built, kFull, {8, 0}));
    holds(refused(built, kFull, {7, 5}), "but this one has 7.5");
}

TEST_SUITE_END();
