// What the settings of every family share: numbers are checked, JSON is read. InputError names the setting.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>

namespace himar::core {

using Json = nlohmann::ordered_json;

// A whole number from `least` to `most`; 0 is no most.
void check_whole(const char* name, std::int64_t value, std::int64_t least, std::int64_t most);

// A finite number of at least 0.
void check_scale(const char* name, double value);

std::int64_t whole_of(const char* name, const Json& found);
double real_of(const char* name, const Json& found);

}  // namespace himar::core
