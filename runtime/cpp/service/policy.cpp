#include "policy.h"

#include <algorithm>

namespace himar::service {

Jobs Policy::choose(const std::deque<std::shared_ptr<Job>>& waiting, std::size_t running) const {
    std::size_t asked = running;
    for (const auto& job : waiting) asked += job->images;
    const std::size_t most = std::min(max_batch, (asked + lanes - 1) / lanes);
    Jobs chosen = {waiting.front()};
    std::size_t images = chosen.front()->images;
    for (auto job = waiting.begin() + 1; job != waiting.end() && images < most; ++job) {
        if (images + (*job)->images > most || (*job)->settings != chosen.front()->settings) continue;
        chosen.push_back(*job);
        images += (*job)->images;
    }
    return chosen;
}

Clock::time_point Policy::begins(const Jobs& chosen, std::size_t waiting, std::size_t before, Clock::time_point free) const {
    if (waiting >= before || images_of(chosen) >= max_batch) return Clock::time_point::min();
    return std::max(free, chosen.front()->accepted) + delay;
}

}  // namespace himar::service
