#include "openai/fields.h"

#include <algorithm>
#include <cstdint>

#include "text.h"

namespace himar::service::openai {
namespace {

// Whether a value holds others inside others, more than so many levels of them.
bool is_deeper(const FieldValue& value, int levels) {
    const auto inside = [&](const FieldValue& each) { return is_deeper(each, levels - 1); };
    return value.is_structured() && (levels == 0 || std::any_of(value.begin(), value.end(), inside));
}

}  // namespace

bool has(const Words& words, const std::string& word) {
    return std::find(words.begin(), words.end(), word) != words.end();
}

std::string shown(const FieldValue& value) {
    constexpr std::size_t most = 200;
    if (value.is_string()) return core::in_quotes(value.get<std::string>());
    if (is_deeper(value, 3)) return value.is_array() ? "a list of lists" : "an object of objects";
    const std::string text = value.dump(-1, ' ', true, FieldValue::error_handler_t::replace);
    return text.size() <= most ? text : text.substr(0, most) + "…";
}

Refusal wrong(const std::string& param, const std::string& sentence) { return {400, sentence, param, "invalid_value"}; }

void check_known(const std::string& name, const Words& taken, const Words& ignored) {
    if (has(taken, name) || has(ignored, name)) return;
    throw Refusal(400, "unknown parameter " + core::in_quotes(name) + "; this server takes " + core::joined(taken) + ".", name,
                  "unknown_parameter");
}

const FieldValue* Fields::find(const std::string& key) const {
    const auto found = values_.find(key);
    return found == values_.end() || found->is_null() ? nullptr : &*found;
}

int Fields::whole(const std::string& key, int other, int least, int most) const {
    const FieldValue* const value = find(key);
    if (value == nullptr) return other;
    const bool fits = value->is_number_unsigned()
                          ? value->get<std::uint64_t>() <= static_cast<std::uint64_t>(most)
                          : value->is_number_integer() && value->get<std::int64_t>() <= most;
    if (!fits || value->get<std::int64_t>() < least)
        throw wrong(key, key + " is " + shown(*value) + "; it must be a whole number from " + std::to_string(least) + " to " +
                             std::to_string(most) + ".");
    return value->get<int>();
}

std::string Fields::word(const std::string& key, const Words& words, const std::string& reason) const {
    const FieldValue* const value = find(key);
    if (value == nullptr) return words.front();
    if (!value->is_string() || !has(words, value->get<std::string>()))
        throw wrong(key, key + " is " + shown(*value) + reason);
    return value->get<std::string>();
}

}  // namespace himar::service::openai
