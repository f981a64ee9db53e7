#include "command_line.h"

#include <getopt.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>

std::vector<std::string> read_options(int count, char** values, const std::vector<Option>& options) {
    std::vector<option> known;
    for (const Option& each : options)
        known.push_back({each.name.c_str(), each.has_value ? required_argument : no_argument, nullptr, 0});
    known.push_back({});
    opterr = 0;
    optind = 0;  // from the start, also when it has read others
    int place = 0;
    for (int found; (found = getopt_long(count, values, "", known.data(), &place)) != -1;) {
        if (found != 0) throw UsageError(std::string("'") + values[optind - 1] + "' is not an option, or lacks its value.");
        const Option& given = options[static_cast<std::size_t>(place)];
        given.take("--" + given.name, optarg == nullptr ? "" : optarg);
    }
    return {values + optind, values + count};
}

std::string bundle_of(const std::vector<std::string>& rest) {
    if (rest.size() != 1) throw UsageError("give one bundle, a folder that `himar-export build` wrote.");
    return rest.front();
}

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
