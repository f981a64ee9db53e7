#include "openai/failure.h"

#include <nlohmann/json.hpp>

namespace himar::service::openai {
namespace {

using Json = nlohmann::ordered_json;

std::string type_of(int status) {
    if (status == 401) return "authentication_error";
    if (status == 429) return "rate_limit_error";
    return status >= 500 ? "server_error" : "invalid_request_error";
}

std::string code_of(int status) {
    if (status == 401) return "invalid_api_key";
    return status == 429 ? "rate_limit_exceeded" : "";
}

Json or_null(const std::string& text) { return text.empty() ? Json() : Json(text); }

}  // namespace

std::string failure_json(int status, const std::string& sentence, const std::string& param, const std::string& code) {
    return dumped({{"error",
                    {{"message", sentence},
                     {"type", type_of(status)},
                     {"param", or_null(param)},
                     {"code", or_null(code.empty() ? code_of(status) : code)}}}});
}

Headers retry_headers(int status) {
    if (status == 500 || status == 504) return {{"x-should-retry", "false"}};
    if (status == 503) return {{"Retry-After", "1"}};
    return {};
}

}  // namespace himar::service::openai
