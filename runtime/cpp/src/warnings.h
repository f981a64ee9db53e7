// What is worth a warning, and no error: a line on stderr, or what himar_set_warning_callback gave.
#pragma once

#include <string>

namespace himar::core {

// Say a sentence without a full stop. Any thread.
void warn(const std::string& sentence);

}  // namespace himar::core
