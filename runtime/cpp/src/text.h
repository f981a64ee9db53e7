// Values as sentences show them.
#pragma once

#include <string>

namespace himar::core {

// Text in single quotes; control characters as escapes, long text cut off.
std::string in_quotes(const std::string& text);

// A number as Python writes a float: the shortest text that reads back as it, "1.0", "nan", "inf".
std::string shown(double value);

}  // namespace himar::core
