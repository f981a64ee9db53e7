// himar's kernels on a GPU, out of the image that was compiled into this library.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "queue/cuda/driver.h"

namespace himar::core::cuda {

// What nvcc made of kernels/himar_kernels/cuda/kernels.cu for every architecture, as CUDA loads it; empty in a build without nvcc.
std::string_view compiled_kernels();

// The loaded kernels of the GPUs of a process; queues share them. Thread-safe.
class Program {
public:
    // EngineError: no kernels in this build, or none for this GPU.
    explicit Program(std::string_view image);
    ~Program();
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;

    // The handle of an entry of kernels.cu, as cuLaunchKernel takes it; EngineError when there is none.
    CUfunc_st* function(const char* entry);

private:
    CUlib_st* library_ = nullptr;
    std::mutex lock_;
    std::map<std::string, CUfunc_st*, std::less<>> functions_;
};

}  // namespace himar::core::cuda
