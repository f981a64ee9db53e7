// The stages of a request that a lane works on, with their seconds: the header Server-Timing, the log and the metrics.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "himar/himar.hpp"

namespace himar::service {

using Stages = std::vector<std::pair<std::string, double>>;

// The names of a model's stages and of decoding, in the order of Result::stage_seconds; a space becomes a hyphen.
std::vector<std::string> stage_names(const himar_pipeline_info& info);

// The header Server-Timing, in milliseconds.
std::string server_timing(const Stages& stages);

}  // namespace himar::service
