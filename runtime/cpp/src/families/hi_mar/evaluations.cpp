#include "families/hi_mar/evaluations.h"

namespace himar::core::hi_mar {

std::vector<std::int64_t> Evaluations::halves(std::int64_t steps, std::int64_t halves) const {
    std::vector<std::int64_t> found(static_cast<std::size_t>(steps), 0);
    std::int64_t evaluated = 0;
    for (std::int64_t place = 0; place < steps; ++place) {  // from the top of the chain
        const bool between = first <= place && place < steps - last;
        if (between && (place - first) % interval != 0) continue;
        found[static_cast<std::size_t>(steps - 1 - place)] = evaluated % guidance_interval == 0 ? halves : 1;
        ++evaluated;
    }
    return found;
}

}  // namespace himar::core::hi_mar
