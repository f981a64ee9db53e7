// Text as sentences, headers and command lines need it; shared by the library and the programs.
#pragma once

#include <string>
#include <vector>

namespace himar::core {

// Text in single quotes; control characters as escapes, long text cut off.
std::string in_quotes(const std::string& text);

// A number as Python writes a float: the shortest text that reads back as it, "1.0", "nan", "inf".
std::string shown(double value);

// A number as Python's :g.
std::string shown_short(double value);

std::string lower(std::string text);  // of ASCII

// Without the characters of `space` at both ends.
std::string trimmed(const std::string& text, const char* space = " \t");

// The parts between separators: one more than there are separators.
std::vector<std::string> split(const std::string& text, const std::string& separator);

// "a, b, c".
std::string joined(const std::vector<std::string>& parts, const std::string& separator = ", ");

// "a, b or c", each between `quote`s.
std::string alternatives(const std::vector<std::string>& words, const std::string& quote = "'");

}  // namespace himar::core
