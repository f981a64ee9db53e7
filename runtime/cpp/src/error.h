// The one exception of the library: a status and a sentence, turned into the C interface's at its border.
#pragma once

#include <stdexcept>
#include <string>

#include "himar/himar.h"

namespace himar::core {

class Error : public std::runtime_error {
public:
    Error(himar_status status, const std::string& sentence) : std::runtime_error(sentence), status_(status) {}
    himar_status status() const { return status_; }

private:
    himar_status status_;
};

// An argument of a request is out of range.
struct InputError : Error {
    explicit InputError(const std::string& sentence) : Error(HIMAR_ERROR_INPUT, sentence) {}
};

// A bundle is missing, damaged, of a newer schema, or leads out of its folder.
struct BundleError : Error {
    explicit BundleError(const std::string& sentence) : Error(HIMAR_ERROR_BUNDLE, sentence) {}
};

// An engine cannot be loaded or run here, or returned values that are not finite.
struct EngineError : Error {
    explicit EngineError(const std::string& sentence) : Error(HIMAR_ERROR_ENGINE, sentence) {}
};

}  // namespace himar::core
