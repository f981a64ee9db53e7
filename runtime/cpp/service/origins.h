// Web pages of other origins that may use the service from a browser (CORS): --allow-origin.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "answer.h"

namespace himar::service {

// An origin as browsers send it, in lower case: SCHEME://HOST, maybe :PORT, or *. Nothing for any other text.
std::optional<std::string> origin_of(const std::string& text);

// The allowed origins, and what answers tell browsers. None allowed: nothing is told.
class Origins {
public:
    explicit Origins(std::vector<std::string> allowed);

    bool any() const { return !allowed_.empty(); }

    // True when pages of that origin may read answers.
    bool allows(const std::string& origin) const;

    // What every answer has, to a request with this Origin header; "" for one without.
    Headers headers(const std::string& origin) const;

private:
    std::vector<std::string> allowed_;
    bool all_;
};

// What the answer to a preflight adds: the methods of its path, and the headers that requests may have.
Headers preflight_headers(const std::string& methods);

}  // namespace himar::service
