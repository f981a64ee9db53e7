// What the programs' command lines have in common.
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

// A command line that cannot be understood; the program then exits with 2.
struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// An option and what takes its value: `take("--name", text)`, where the text of one without a value is "".
struct Option {
    std::string name;  // without the dashes
    std::function<void(const std::string& option, const std::string& text)> take;
    bool has_value = true;
};

// Give every option of a command line to its `take`; returns what is no option. UsageError.
std::vector<std::string> read_options(int count, char** values, const std::vector<Option>& options);

// The only thing on a command line that is no option: a bundle. UsageError.
std::string bundle_of(const std::vector<std::string>& rest);

// The value of `option` as a whole number; UsageError unless it is one from `least` to `most`.
std::int64_t whole(const std::string& option, const std::string& text, std::int64_t least, std::int64_t most);

// The value of `option` as a number; UsageError when it is none.
double number(const std::string& option, const std::string& text);

// Options that set `to`, which must outlive them.
template <class Text>
Option text_option(const std::string& name, Text& to) {
    return {name, [&to](const std::string&, const std::string& text) { to = text; }};
}

template <class Whole>
Option whole_option(const std::string& name, Whole& to, std::int64_t least, std::int64_t most) {
    return {name, [&to, least, most](const std::string& option, const std::string& text) {
                to = static_cast<Whole>(whole(option, text, least, most));
            }};
}

inline Option flag(const std::string& name, bool& to) {
    return {name, [&to](const std::string&, const std::string&) { to = true; }, false};
}
