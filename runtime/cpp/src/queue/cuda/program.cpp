#include "queue/cuda/program.h"

#include "error.h"

// The image as nvcc wrote it, between two labels. CMake gives the file's name where it made one.
#ifdef HIMAR_KERNELS_IMAGE
asm(".section .rodata\n"
    ".balign 64\n"
    ".local himar_kernels_image, himar_kernels_image_end\n"
    "himar_kernels_image:\n"
    ".incbin \"" HIMAR_KERNELS_IMAGE "\"\n"
    "himar_kernels_image_end:\n"
    ".byte 0\n"
    ".previous\n");
extern "C" {
extern const char himar_kernels_image[] __attribute__((visibility("hidden")));
extern const char himar_kernels_image_end[] __attribute__((visibility("hidden")));
}
#endif

namespace himar::core::cuda {

std::string_view compiled_kernels() {
#ifdef HIMAR_KERNELS_IMAGE
    return {himar_kernels_image, static_cast<std::size_t>(himar_kernels_image_end - himar_kernels_image)};
#else
    return {};
#endif
}

Program::Program(std::string_view image) {
    if (image.empty())
        throw EngineError("this build of himar's C++ runtime has no CUDA kernels, since nvcc was not found when it was "
                          "configured; configure it with -DHIMAR_CUDA=ON and nvcc on the PATH, or use device 'cpu'.");
    try {
        HIMAR_CUDA(cuLibraryLoadData, &library_, image.data(), nullptr, nullptr, 0, nullptr, nullptr, 0);
    } catch (const EngineError& error) {
        throw EngineError(std::string("the CUDA kernels of this build do not load on this GPU: ") + error.what() +
                          " Install a driver at least as new as the CUDA toolkit that compiled them, or build himar's C++ "
                          "runtime with an older toolkit.");
    }
}

Program::~Program() { driver().cuLibraryUnload(library_); }

CUfunc_st* Program::function(const char* entry) {
    const std::lock_guard<std::mutex> lock(lock_);
    const auto found = functions_.find(std::string_view(entry));
    if (found != functions_.end()) return found->second;
    CUkern_st* kernel = nullptr;
    HIMAR_CUDA(cuLibraryGetKernel, &kernel, library_, entry);
    // A kernel of a library may stand where a launch takes a function.
    return functions_[entry] = reinterpret_cast<CUfunc_st*>(kernel);
}

}  // namespace himar::core::cuda
