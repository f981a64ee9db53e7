#include "engines/ort/fused_library.h"

#include <atomic>
#include <cstdlib>
#include <string>
#include <system_error>

#include "error.h"

namespace himar::core {

namespace {

std::atomic<bool> was_said = false;

}  // namespace

std::optional<std::filesystem::path> fused_library(const std::function<void(const std::string&)>& say) {
    const char* const library = std::getenv("HIMAR_FUSED_LIBRARY");
    if (library == nullptr) {
        if (!was_said.exchange(true))
            say("half precision runs without our fused operators; compile them with `make cuda` and let "
                "HIMAR_FUSED_LIBRARY name the library, or set it to nothing to go without.");
        return std::nullopt;
    }
    if (*library == '\0') return std::nullopt;
    std::error_code unknown;
    if (!std::filesystem::is_regular_file(library, unknown))
        throw EngineError(std::string("$HIMAR_FUSED_LIBRARY is '") + library +
                          "', which is not a file; unset it, or set it to nothing to go without.");
    return library;
}

}  // namespace himar::core
