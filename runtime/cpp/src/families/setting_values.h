// What the settings of every family share: numbers are checked, JSON is read. InputError names the setting.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace himar::core {

using Json = nlohmann::ordered_json;

// A whole number from `least` to `most`; 0 is no most.
void check_whole(const char* name, std::int64_t value, std::int64_t least, std::int64_t most);

// A number from 0 to kMostScale: no image is a picture long before it, and states stay finite in float32.
constexpr std::int64_t kMostScale = 1'000'000;
void check_scale(const char* name, double value);

std::int64_t whole_of(const char* name, const Json& found);
double real_of(const char* name, const Json& found);

// How a list's value is named: "counts[3]".
std::string at_place(const char* name, std::size_t place);

// A list's values, each checked under the name of its place.
std::vector<std::int64_t> whole_list_of(const char* name, const Json& found);
std::vector<double> real_list_of(const char* name, const Json& found);

// The JSON that a short text holds; nothing where it is none, or nested deeper than any setting is.
std::optional<Json> json_of(const std::string& text);

}  // namespace himar::core
