// Reading a request's body as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "refusals.h"

namespace himar::service {

// The JSON value that a body is, as nlohmann's type `Json`. Refusal 400, whose sentence ends with `advice`, for what is none.
template <class Json>
Json parsed_body(const std::string& body, const std::string& advice) {
    try {
        return Json::parse(body);
    } catch (const typename Json::parse_error& error) {
        const bool not_utf8 = std::string(error.what()).find("UTF-8") != std::string::npos;
        throw Refusal(400, std::string("the body is not ") + (not_utf8 ? "UTF-8" : "valid JSON") + " (byte " +
                               std::to_string(error.byte) + "); " + advice);
    } catch (const typename Json::exception&) {
        throw Refusal(400, "the body holds a number that is too large; " + advice);
    }
}

}  // namespace himar::service
