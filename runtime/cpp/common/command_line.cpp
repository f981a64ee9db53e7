#include "command_line.h"

#include <cerrno>
#include <cmath>
#include <cstdlib>

std::int64_t whole(const std::string& option, const std::string& text, std::int64_t least, std::int64_t most) {
    const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
    errno = 0;
    const long long value = digits ? std::strtoll(text.c_str(), nullptr, 10) : -1;
    if (!digits || errno != 0 || value < least || value > most)
        throw UsageError(option + " is '" + text + "'; it must be a whole number from " + std::to_string(least) + " to " +
                         std::to_string(most) + ".");
    return value;
}

double number(const std::string& option, const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || std::isnan(value))
        throw UsageError(option + " is '" + text + "'; it must be a number.");
    return value;
}
