#include "queue/cuda/driver.h"

#include <dlfcn.h>

#include "error.h"

namespace himar::core::cuda {
namespace {

constexpr const char* kLibrary = "libcuda.so.1";

// The library stays open: CUDA has threads of its own.
void* opened(const char* library) {
    void* const handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr)
        throw EngineError(std::string("CUDA cannot be used here: ") + dlerror() + "; install NVIDIA's driver.");
    return handle;
}

template <class Function>
void find(void* handle, const char* name, Function*& function) {
    void* const symbol = dlsym(handle, name);
    if (symbol == nullptr)
        throw EngineError(std::string("CUDA cannot be used here: the driver has no ") + name +
                          "; install NVIDIA's driver 525 or a later one.");
    function = reinterpret_cast<Function*>(symbol);
}

}  // namespace

Driver open_driver(const char* library) {
    void* const handle = opened(library);
    Driver driver{};
#define HIMAR_CUDA_FIND(name, exported, parameters) find(handle, #exported, driver.name);
    HIMAR_CUDA_FUNCTIONS(HIMAR_CUDA_FIND)
#undef HIMAR_CUDA_FIND
    return driver;
}

const Driver& driver() {
    static const Driver opened_once = open_driver(kLibrary);
    return opened_once;
}

void check(int result, const char* function) {
    if (result == 0) return;
    const char* name = nullptr;
    if (driver().cuGetErrorName(result, &name) != 0 || name == nullptr) name = "an unknown error";
    throw EngineError(std::string("CUDA's ") + function + " failed: " + name + " (" + std::to_string(result) + ").");
}

}  // namespace himar::core::cuda
