// Compiled where cuda.h is found: what src/cuda/driver.h declares of the driver must be what NVIDIA declares.
#include <cuda.h>

#include <tuple>
#include <type_traits>

#include "queue/cuda/driver.h"

namespace himar::core::cuda {
namespace {

// CUDA's enumerations are passed as int.
template <class T>
struct Plain {
    using Type = T;
};
template <class T>
using PlainType = typename std::conditional_t<std::is_enum_v<T>, Plain<int>, Plain<T>>::Type;
template <class T>
struct Plain<T*> {
    using Type = std::conditional_t<std::is_enum_v<T>, int*, T*>;
};

template <class Function>
struct Signature;
template <class Result, class... P>
struct Signature<Result(P...)> {
    using Type = std::tuple<PlainType<Result>, PlainType<P>...>;
};

// cuda.h maps a function's name to the version that it declares; HIMAR_CUDA_EXPORTED expands that.
#define HIMAR_CUDA_SAME(name, exported, parameters)                                                          \
    static_assert(std::is_same_v<Signature<decltype(::exported)>::Type, Signature<int parameters>::Type>, \
                  #exported " has other parameters");
HIMAR_CUDA_FUNCTIONS(HIMAR_CUDA_SAME)

static_assert(kCapabilityMajor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
static_assert(kCapabilityMinor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
static_assert(kCaptureThreadLocal == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
static_assert(kStreamNonBlocking == CU_STREAM_NON_BLOCKING);
static_assert(kEventDisableTiming == CU_EVENT_DISABLE_TIMING);
static_assert(CUDA_SUCCESS == 0);

}  // namespace
}  // namespace himar::core::cuda
