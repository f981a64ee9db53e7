#include "families/setting_values.h"

#include <cmath>
#include <string>

#include "bundle/json_reader.h"
#include "error.h"
#include "text.h"

namespace himar::core {

void check_whole(const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
    if (value >= least && (most == 0 || value <= most)) return;
    const std::string limits = most == 0 ? "at least " + std::to_string(least)
                                         : std::to_string(least) + " to " + std::to_string(most);
    throw InputError(std::string(name) + " is " + std::to_string(value) + "; it must be " + limits + ".");
}

void check_scale(const char* name, double value) {
    if (!std::isfinite(value) || value < 0)
        throw InputError(std::string(name) + " is " + shown(value) + "; it must be a finite number of at least 0.");
}

std::int64_t whole_of(const char* name, const Json& found) {
    if (!found.is_number_integer())
        throw InputError(std::string(name) + " is " + shown(found) + "; it must be a whole number.");
    const auto value = found.get<std::int64_t>();
    if (found.is_number_unsigned() && value < 0)
        throw InputError(std::string(name) + " is " + shown(found) + "; it must be at most 2^63-1.");
    return value;
}

double real_of(const char* name, const Json& found) {
    if (!found.is_number()) throw InputError(std::string(name) + " is " + shown(found) + "; it must be a number.");
    return found.get<double>();
}

}  // namespace himar::core
