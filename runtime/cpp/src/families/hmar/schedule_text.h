// A schedule as JSON: in manifests, recipes, requests and on command lines.
#pragma once

#include <string>
#include <vector>

#include "families/hmar/sampling.h"

namespace himar::core::hmar {

// The schedule that JSON says: a list of counts for each scale. InputError for anything else.
Schedule schedule_of(const Json& value);

// The same of a text of it.
Schedule schedule_of_text(const std::string& text);

std::string schedule_text(const std::vector<std::int64_t>& counts);  // "[1, 3]"

}  // namespace himar::core::hmar
