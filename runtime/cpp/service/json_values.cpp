#include "json_values.h"

#include <cmath>

namespace himar::service {

std::string shown(const Json& value) {
    if (value.is_array()) return "a list";
    if (value.is_object()) return "an object";
    constexpr std::size_t most = 60;
    const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    return text.size() <= most ? text : text.substr(0, most) + (value.is_string() ? "...\"" : "...");
}

void refuse(const std::string& key, const Json& value, const std::string& wanted) {
    throw Refusal(400, key + " is " + shown(value) + "; it must be " + wanted + ".");
}

bool is_whole(const Json& value) {
    return value.is_number_integer() || (value.is_number_float() && std::fabs(value.get<double>()) >= 0x1p63);
}

std::string text_of(const char* key, const Json& value) {
    const char* const wanted = "the name of a sampling setting, as /v1/model lists them";
    if (!value.is_string()) refuse(key, value, wanted);
    auto text = value.get<std::string>();
    if (text.find('\0') != std::string::npos) refuse(key, value, wanted);
    return text;
}

std::size_t one_of(const char* key, const Json& value, std::initializer_list<const char*> words) {
    std::string known;
    std::size_t place = 0;
    for (const char* word : words) {
        if (value == word) return place;
        const char* const between = place == 0 ? "" : place + 1 == words.size() ? " or " : ", ";
        known += between + ("'" + std::string(word) + "'");
        ++place;
    }
    std::string text = shown(value);
    if (value.is_string()) text = "'" + text.substr(1, text.size() - 2) + "'";
    throw Refusal(400, std::string(key) + " is " + text + "; it must be " + known + ".");
}

}  // namespace himar::service
