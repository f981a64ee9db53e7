#include "families/hi_mar/evaluations.h"

namespace himar::core::hi_mar {
namespace {

// Call visit(number, k) for each evaluation of a chain, from the top; number counts from 0.
template <class Visit>
void for_each_evaluation(const std::vector<std::int64_t>& halves, Visit visit) {
    std::int64_t number = 0;
    for (std::size_t k = halves.size(); k-- > 0;)
        if (halves[k] > 0) visit(number++, k);
}

}  // namespace

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

std::vector<std::int64_t> Evaluations::modulated(const std::vector<std::int64_t>& halves) const {
    std::vector<std::int64_t> found(halves.size(), 0);
    std::int64_t made = 0;
    for_each_evaluation(halves, [&](std::int64_t number, std::size_t k) {
        if (number % modulation_interval == 0 || halves[k] > made) found[k] = made = halves[k];
    });
    return found;
}

std::vector<long long> Evaluations::held_timesteps(const std::vector<long long>& timesteps,
                                                   const std::vector<std::int64_t>& halves) const {
    std::vector<long long> held = timesteps;
    long long first = 0;
    for_each_evaluation(halves, [&](std::int64_t number, std::size_t k) {
        if (number % modulation_interval == 0) first = timesteps[k];
        held[k] = first;
    });
    return held;
}

}  // namespace himar::core::hi_mar
