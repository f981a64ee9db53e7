#include "text.h"

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

}  // namespace himar::core
