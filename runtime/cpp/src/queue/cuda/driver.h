// NVIDIA's driver library, opened when a GPU is asked for: the same libhimar runs where there is none.
//
// The functions are those of CUDA's driver API under its own names; its types are declared here, so that nothing of the
// CUDA toolkit is needed to compile. tests/test_cuda_types.cpp holds them to cuda.h where that is found.
#pragma once

#include <cstddef>
#include <string>

struct CUctx_st;
struct CUstream_st;
struct CUevent_st;
struct CUgraph_st;
struct CUgraphExec_st;
struct CUlib_st;
struct CUkern_st;
struct CUfunc_st;

namespace himar::core::cuda {

using Address = unsigned long long;  // CUdeviceptr

// Every function: name, exported name, parameters. All of them return a CUresult.
#define HIMAR_CUDA_FUNCTIONS(X)                                                                                      \
    X(cuInit, cuInit, (unsigned))                                                                                    \
    X(cuGetErrorName, cuGetErrorName, (int, const char**))                                                           \
    X(cuDeviceGet, cuDeviceGet, (int*, int))                                                                         \
    X(cuDeviceGetAttribute, cuDeviceGetAttribute, (int*, int, int))                                                  \
    X(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, (CUctx_st**, int))                                         \
    X(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, (int))                                                \
    X(cuCtxSetCurrent, cuCtxSetCurrent, (CUctx_st*))                                                                 \
    X(cuMemGetInfo, cuMemGetInfo_v2, (std::size_t*, std::size_t*))                                                   \
    X(cuMemAlloc, cuMemAlloc_v2, (Address*, std::size_t))                                                            \
    X(cuMemFree, cuMemFree_v2, (Address))                                                                            \
    X(cuMemAllocHost, cuMemAllocHost_v2, (void**, std::size_t))                                                      \
    X(cuMemFreeHost, cuMemFreeHost, (void*))                                                                         \
    X(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2, (Address, const void*, std::size_t, CUstream_st*))                    \
    X(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2, (void*, Address, std::size_t, CUstream_st*))                          \
    X(cuMemcpyDtoDAsync, cuMemcpyDtoDAsync_v2, (Address, Address, std::size_t, CUstream_st*))                        \
    X(cuMemsetD8Async, cuMemsetD8Async, (Address, unsigned char, std::size_t, CUstream_st*))                         \
    X(cuStreamCreate, cuStreamCreate, (CUstream_st**, unsigned))                                                     \
    X(cuStreamDestroy, cuStreamDestroy_v2, (CUstream_st*))                                                           \
    X(cuStreamSynchronize, cuStreamSynchronize, (CUstream_st*))                                                      \
    X(cuStreamBeginCapture, cuStreamBeginCapture_v2, (CUstream_st*, int))                                            \
    X(cuStreamEndCapture, cuStreamEndCapture, (CUstream_st*, CUgraph_st**))                                          \
    X(cuGraphInstantiate, cuGraphInstantiateWithFlags, (CUgraphExec_st**, CUgraph_st*, unsigned long long))          \
    X(cuGraphLaunch, cuGraphLaunch, (CUgraphExec_st*, CUstream_st*))                                                 \
    X(cuGraphDestroy, cuGraphDestroy, (CUgraph_st*))                                                                 \
    X(cuGraphExecDestroy, cuGraphExecDestroy, (CUgraphExec_st*))                                                     \
    X(cuEventCreate, cuEventCreate, (CUevent_st**, unsigned))                                                        \
    X(cuEventRecord, cuEventRecord, (CUevent_st*, CUstream_st*))                                                     \
    X(cuEventSynchronize, cuEventSynchronize, (CUevent_st*))                                                         \
    X(cuEventDestroy, cuEventDestroy_v2, (CUevent_st*))                                                              \
    X(cuLibraryLoadData, cuLibraryLoadData,                                                                          \
      (CUlib_st**, const void*, int*, void**, unsigned, int*, void**, unsigned))                                     \
    X(cuLibraryUnload, cuLibraryUnload, (CUlib_st*))                                                                 \
    X(cuLibraryGetKernel, cuLibraryGetKernel, (CUkern_st**, CUlib_st*, const char*))                                 \
    X(cuLaunchKernel, cuLaunchKernel,                                                                                \
      (CUfunc_st*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream_st*, void**, void**))

struct Driver {
#define HIMAR_CUDA_MEMBER(name, exported, parameters) int(*name) parameters;
    HIMAR_CUDA_FUNCTIONS(HIMAR_CUDA_MEMBER)
#undef HIMAR_CUDA_MEMBER
};

// Values of CUDA's enumerations that are used here.
constexpr int kCapabilityMajor = 75, kCapabilityMinor = 76;  // of CUdevice_attribute
constexpr int kCaptureThreadLocal = 1;                       // of CUstreamCaptureMode
constexpr unsigned kStreamNonBlocking = 1, kEventDisableTiming = 2;

// The driver's functions, opened once; EngineError when there is no driver, or one that is too old.
const Driver& driver();

// Open a driver library by another name; for `driver` and for tests.
Driver open_driver(const char* library);

// EngineError with CUDA's name of the error unless a function of the driver returned 0.
void check(int result, const char* function);

}  // namespace himar::core::cuda

// Call a function of the driver by its name; EngineError when it fails.
#define HIMAR_CUDA(function, ...) ::himar::core::cuda::check(::himar::core::cuda::driver().function(__VA_ARGS__), #function)
