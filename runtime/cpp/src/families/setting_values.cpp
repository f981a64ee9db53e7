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
    if (!(value >= 0 && value <= kMostScale))
        throw InputError(std::string(name) + " is " + shown(value) + "; it must be a number from 0 to " + std::to_string(kMostScale) + ".");
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

namespace {

template <class Value>
std::vector<Value> list_of(const char* name, const Json& found, Value (*read)(const char*, const Json&)) {
    if (!found.is_array()) throw InputError(std::string(name) + " is " + shown(found) + "; it must be a list.");
    std::vector<Value> values;
    for (const Json& each : found) values.push_back(read(at_place(name, values.size()).c_str(), each));
    return values;
}

}  // namespace

std::string at_place(const char* name, std::size_t place) { return std::string(name) + "[" + std::to_string(place) + "]"; }

std::vector<std::int64_t> whole_list_of(const char* name, const Json& found) { return list_of(name, found, whole_of); }

std::vector<double> real_list_of(const char* name, const Json& found) { return list_of(name, found, real_of); }

std::optional<Json> json_of(const std::string& text) {
    constexpr int deepest = 8;
    bool too_deep = false;
    try {
        Json value = Json::parse(text, [&](int depth, Json::parse_event_t, Json&) {
            too_deep = too_deep || depth > deepest;
            return !too_deep;
        });
        if (too_deep) return std::nullopt;
        return value;
    } catch (const Json::exception&) {
        return std::nullopt;
    }
}

}  // namespace himar::core
