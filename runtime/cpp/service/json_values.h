// Single values of a request's JSON, with refusals that name the key and the value.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "request.h"

namespace himar::service {

using Json = nlohmann::json;

// A value as a sentence shows it: one short line of ASCII.
std::string shown(const Json& value);

// Throws Refusal 400: "KEY is VALUE; it must be WANTED."
[[noreturn]] void refuse(const std::string& key, const Json& value, const std::string& wanted);

// True for an integer of any size: not for 7.0, true or "7". Beyond 64 bits JSON's reader gives a fraction.
bool is_whole(const Json& value);

// True for a whole number that the type holds.
template <class Whole>
bool fits(const Json& value) {
    using Limits = std::numeric_limits<Whole>;
    if (value.is_number_unsigned()) return value.get<std::uint64_t>() <= static_cast<std::uint64_t>(Limits::max());
    if (!value.is_number_integer()) return false;
    const auto number = value.get<std::int64_t>();
    if constexpr (Limits::is_signed) return number >= Limits::min() && number <= Limits::max();
    return number >= 0;
}

// Text for C, where a NUL would cut it off.
std::string text_of(const char* key, const Json& value);

// Which of the words it is, counted from 0. There are at least two.
std::size_t one_of(const char* key, const Json& value, std::initializer_list<const char*> words);

}  // namespace himar::service
