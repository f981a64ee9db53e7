#include "accept.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <optional>
#include <vector>

#include "text.h"

namespace himar::service {
namespace {

using core::trimmed;

struct Member {
    std::string range;
    double quality;
};

// The parts of a text between separators that do not stand in quotes.
std::vector<std::string> unquoted_parts(const std::string& text, char separator) {
    std::vector<std::string> parts(1);
    bool quoted = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char each = text[i];
        if (each == '"') quoted = !quoted;
        if (quoted && each == '\\' && i + 1 < text.size()) parts.back() += text[i++];
        if (each == separator && !quoted)
            parts.emplace_back();
        else
            parts.back() += text[i];
    }
    return parts;
}

bool is_token(const std::string& text) {
    const std::string marks = "!#$%&'+.^_`|~-";
    return !text.empty() && std::all_of(text.begin(), text.end(), [&](unsigned char each) {
        return (each < 128 && std::isalnum(each) != 0) || marks.find(static_cast<char>(each)) != std::string::npos;
    });
}

bool is_range(const std::string& text) {
    const std::size_t slash = text.find('/');
    if (slash == std::string::npos) return false;
    const std::string type = text.substr(0, slash), subtype = text.substr(slash + 1);
    return text == "*/*" || (is_token(type) && (subtype == "*" || is_token(subtype)));
}

// A quality from 0 to 1, in digits.
std::optional<double> quality_of(const std::string& text) {
    const std::string digits = "0123456789";
    const std::size_t dot = text.find('.');
    const std::string whole = text.substr(0, dot), part = dot == std::string::npos ? "" : text.substr(dot + 1);
    if (whole.empty() && part.empty()) return std::nullopt;
    if (whole.size() > 3 || part.size() > 9 || (whole + part).find_first_not_of(digits) != std::string::npos)
        return std::nullopt;
    const double quality = std::strtod(("0" + text).c_str(), nullptr);
    return quality <= 1 ? std::optional<double>(quality) : std::nullopt;
}

std::optional<Member> read_member(const std::string& text) {
    const std::vector<std::string> parts = unquoted_parts(text, ';');
    Member member{trimmed(parts.front()), 1};
    if (member.range == "*") member.range = "*/*";  // Java's clients have sent that for decades
    if (!is_range(member.range)) return std::nullopt;
    for (std::size_t i = 1; i < parts.size(); ++i) {
        const std::size_t equals = parts[i].find('=');
        if (trimmed(parts[i].substr(0, equals)) != "q") continue;
        const auto quality = quality_of(equals == std::string::npos ? "" : trimmed(parts[i].substr(equals + 1)));
        if (!quality) return std::nullopt;
        member.quality = *quality;
    }
    return member;
}

double quality_for(const std::vector<Member>& members, const std::string& type) {
    for (const std::string& range : {type, type.substr(0, type.find('/')) + "/*", std::string("*/*")}) {
        double best = -1;
        for (const Member& member : members)
            if (member.range == range) best = std::max(best, member.quality);
        if (best >= 0) return best;
    }
    return 0;
}

}  // namespace

Accepted read_accept(const std::string& header) {
    std::vector<Member> members;
    for (const std::string& part : unquoted_parts(core::lower(header), ','))
        if (auto member = read_member(part)) members.push_back(*member);
    if (members.empty()) return {};
    return {quality_for(members, "application/json"), quality_for(members, "image/png")};
}

}  // namespace himar::service
