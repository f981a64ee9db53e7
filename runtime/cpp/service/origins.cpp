#include "origins.h"

#include <algorithm>
#include <cctype>

#include "text.h"

namespace himar::service {
namespace {

using core::lower;

bool is_scheme(const std::string& text) {
    const auto fits = [](unsigned char each) {
        return std::islower(each) != 0 || std::isdigit(each) != 0 || each == '+' || each == '.' || each == '-';
    };
    return !text.empty() && std::islower(static_cast<unsigned char>(text.front())) != 0 &&
           std::all_of(text.begin(), text.end(), fits);
}

}  // namespace

std::optional<std::string> origin_of(const std::string& text) {
    const std::string origin = lower(text);
    if (origin == "*") return origin;
    const std::size_t colon = origin.find("://");
    if (colon == std::string::npos || !is_scheme(origin.substr(0, colon))) return std::nullopt;
    const std::string host = origin.substr(colon + 3);
    if (host.empty() || host.find_first_of("/?#@\\, \t\r\n\v\f") != std::string::npos) return std::nullopt;
    return origin;
}

Origins::Origins(std::vector<std::string> allowed)
    : allowed_(std::move(allowed)), all_(std::find(allowed_.begin(), allowed_.end(), "*") != allowed_.end()) {}

bool Origins::allows(const std::string& origin) const {
    return all_ || std::find(allowed_.begin(), allowed_.end(), lower(origin)) != allowed_.end();
}

Headers Origins::headers(const std::string& origin) const {
    Headers told;
    if (!any()) return told;
    if (!all_) told.emplace_back("Vary", "Origin");  // a cache must keep answers to others apart
    if (origin.empty() || !allows(origin)) return told;
    told.emplace_back("Access-Control-Allow-Origin", all_ ? "*" : origin);
    told.emplace_back("Access-Control-Expose-Headers", "X-Request-Id, X-Himar-Seed, Retry-After, Server-Timing");
    return told;
}

Headers preflight_headers(const std::string& methods) {
    return {{"Access-Control-Allow-Methods", methods},
            {"Access-Control-Allow-Headers", "Accept, Authorization, Content-Type, X-Request-Id"},
            {"Access-Control-Max-Age", "600"}};
}

}  // namespace himar::service
