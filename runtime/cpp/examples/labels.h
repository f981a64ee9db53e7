// The classes that --labels, or of an edit --class, asks for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "himar/himar.hpp"

constexpr std::int64_t kMostLabels = 1'000'000;

// The value "0,3,5-9,tench" of `option` as labels, each `count` times. Digits are numbers; anything else is a name of `pipeline`'s bundle, which
// may hold commas. Without a pipeline nobody knows the names, and only the numbers and how many there are are checked.
// UsageError for a text that is neither, and for more than kMostLabels.
std::vector<std::int64_t> read_labels(const std::string& option, const std::string& text, std::int64_t count,
                                      const himar::Pipeline* pipeline);
