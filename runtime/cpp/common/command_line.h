// What the programs' command lines have in common.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

// A command line that cannot be understood; the program then exits with 2.
struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// The value of `option` as a whole number; UsageError unless it is one from `least` to `most`.
std::int64_t whole(const std::string& option, const std::string& text, std::int64_t least, std::int64_t most);

// The value of `option` as a number; UsageError when it is none.
double number(const std::string& option, const std::string& text);
