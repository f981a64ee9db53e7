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

// A value as Python writes it, "[1, 3]", which is how sentences of both runtimes show lists. Nothing deep is written out,
// and little more than 80 characters of a list.
std::string listed(const Json& value);

}  // namespace himar::core::hmar
