#include "open_guard.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>

#include <cstdarg>
#include <cstdio>
#include <fstream>

namespace fs = std::filesystem;

namespace {

std::vector<std::string> guarded;  // the folders with a final "/"; none when nothing is guarded
bool only_count = false;   // note what would end the program
int opened_outside = 0;

// Where `path` leads; as it stands where it leads nowhere.
std::string resolved(const char* path) {
    char* const real = ::realpath(path, nullptr);
    std::string text = real == nullptr ? path : real;
    ::free(real);
    return text;
}

void look_at(const char* path) {
    if (guarded.empty() || path == nullptr) return;
    const std::string real = resolved(path);
    for (const std::string& folder : guarded)
        if (real.compare(0, folder.size(), folder) == 0) return;
    ++opened_outside;
    if (only_count) return;
    std::fprintf(stderr, "%s, which is %s, is outside of %s and was opened.\n", path, real.c_str(), guarded.front().c_str());
    std::abort();
}

// The function of that name which this one stands in front of.
template <class Function>
Function behind(Function, const char* name) {
    return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

mode_t mode_of(int flags, std::va_list arguments) {
    return (flags & (O_CREAT | O_TMPFILE)) != 0 ? static_cast<mode_t>(va_arg(arguments, int)) : 0;
}

}  // namespace

// Everything by which libstdc++ and this library open files comes by one of these names.
extern "C" {

#define HIMAR_GUARDED_OPEN(name)                             \
    int name(const char* path, int flags, ...) {             \
        std::va_list arguments;                              \
        va_start(arguments, flags);                          \
        const mode_t mode = mode_of(flags, arguments);       \
        va_end(arguments);                                   \
        look_at(path);                                       \
        return behind(&name, #name)(path, flags, mode);      \
    }
HIMAR_GUARDED_OPEN(open)
HIMAR_GUARDED_OPEN(open64)

#define HIMAR_GUARDED_FOPEN(name)                            \
    std::FILE* name(const char* path, const char* mode) {    \
        look_at(path);                                       \
        return behind(&name, #name)(path, mode);             \
    }
HIMAR_GUARDED_FOPEN(fopen)
HIMAR_GUARDED_FOPEN(fopen64)

}  // extern "C"

Guard::Guard(const std::vector<fs::path>& folders) {
    for (const fs::path& folder : folders) guarded.push_back(fs::canonical(folder).string() + "/");
}

Guard::~Guard() { guarded.clear(); }

void require_inside(const std::string& path) { look_at(path.c_str()); }

void check_guard() {
    const Guard guard({fs::temp_directory_path()});
    only_count = true;
    std::ifstream stream("/etc/passwd");
    std::FILE* const file = std::fopen("/etc/passwd", "rb");
    if (file != nullptr) std::fclose(file);
    only_count = false;
    if (opened_outside == 2) return;
    std::fprintf(stderr, "the guard saw %d of 2 files that were opened outside of its folder.\n", opened_outside);
    std::abort();
}
