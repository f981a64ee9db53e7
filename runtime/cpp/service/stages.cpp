#include "stages.h"

#include <algorithm>
#include <cstdio>

#include "text.h"

namespace himar::service {

std::vector<std::string> stage_names(const himar_pipeline_info& info) {
    std::vector<std::string> names = core::split(info.stages, ", ");
    names.emplace_back("decode");
    for (std::string& name : names) std::replace(name.begin(), name.end(), ' ', '-');
    return names;
}

std::string server_timing(const Stages& stages) {
    std::string header;
    for (const auto& [name, seconds] : stages) {
        char duration[48];
        std::snprintf(duration, sizeof duration, ";dur=%.3f", 1000 * seconds);
        header += (header.empty() ? "" : ", ") + name + duration;
    }
    return header;
}

}  // namespace himar::service
