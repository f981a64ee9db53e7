#include "text.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace himar::core {

std::string in_quotes(const std::string& text) {
    constexpr std::size_t most = 200;
    std::string shown = "'";
    for (const char each : text.substr(0, most)) {
        const auto code = static_cast<unsigned char>(each);
        if (code < 0x20 || code == 0x7F) {
            char escape[8];
            std::snprintf(escape, sizeof escape, "\\x%02x", code);
            shown += escape;
        } else if (each == '\'' || each == '\\') {
            shown += '\\';
            shown += each;
        } else {
            shown += each;
        }
    }
    return shown + (text.size() > most ? "…'" : "'");
}

std::string shown(double value) {
    if (std::isnan(value)) return "nan";
    if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
    char digits[64];
    const auto end = std::to_chars(digits, digits + sizeof digits, value);
    std::string text(digits, end.ptr);
    if (text.find_first_of(".e") == std::string::npos) text += ".0";
    return text;
}

std::string shown_short(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%g", value);
    return text;
}

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char each) { return std::tolower(each); });
    return text;
}

std::string trimmed(const std::string& text, const char* space) {
    const auto first = text.find_first_not_of(space), last = text.find_last_not_of(space);
    return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

std::vector<std::string> split(const std::string& text, const std::string& separator) {
    std::vector<std::string> parts;
    for (std::size_t start = 0; start <= text.size();) {
        const std::size_t end = std::min(text.find(separator, start), text.size());
        parts.push_back(text.substr(start, end - start));
        start = end + separator.size();
    }
    return parts;
}

std::string joined(const std::vector<std::string>& parts, const std::string& separator) {
    std::string text;
    for (std::size_t i = 0; i < parts.size(); ++i) text += (i == 0 ? "" : separator) + parts[i];
    return text;
}

std::string alternatives(const std::vector<std::string>& words, const std::string& quote) {
    std::string text;
    for (std::size_t i = 0; i < words.size(); ++i)
        text += (i == 0 ? "" : i + 1 == words.size() ? " or " : ", ") + quote + words[i] + quote;
    return text;
}

}  // namespace himar::core
