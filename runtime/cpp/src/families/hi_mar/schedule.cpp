#include "families/hi_mar/schedule.h"

#include <algorithm>
#include <cmath>

#include "error.h"

namespace himar::core::hi_mar {
namespace {

constexpr double kPi = 3.141592653589793238462643;

// The scale of a step: of an entry of the phase's list or its schedule, and 1 where that is below the least.
double guidance_of(const Sampling& sampling, const PhaseSampling& phase, std::int64_t entry, std::int64_t positions,
                   std::int64_t masked_after) {
    const double scale = phase.guidances.empty()
                             ? guidance_at(sampling.guidance_schedule, phase.guidance, positions, masked_after)
                             : phase.guidances[static_cast<std::size_t>(entry)];
    return scale >= sampling.least_guidance ? scale : 1.0;
}

// The steps of a phase of so many positions, of which `first` are masked to begin with.
void plan_phase(std::vector<Step>& all, std::size_t stage, bool is_low, std::int64_t positions, std::int64_t first,
                const Sampling& sampling) {
    if (first == 0) return;
    const PhaseSampling phase = sampling.phase(is_low);
    const std::int64_t steps = std::min(phase.steps, first);
    const std::vector<std::int64_t> masked = masked_counts(first, steps);
    for (std::int64_t i = 0; i < steps; ++i) {
        const std::int64_t before = masked[static_cast<std::size_t>(i)], after = masked[static_cast<std::size_t>(i + 1)];
        const std::int64_t revealed = i == steps - 1 ? before : before - after;
        const std::int64_t entry = (i + 1) * phase.steps / steps - 1;
        const double guidance = guidance_of(sampling, phase, entry, positions, after);
        all.push_back({stage, is_low, i, before, after, revealed, guidance, phase.chain_length(entry)});
    }
}

}  // namespace

std::vector<std::int64_t> masked_counts(std::int64_t positions, std::int64_t steps) {
    if (steps < 1 || steps > positions)
        throw InputError(std::to_string(steps) + " steps asked for " + std::to_string(positions) +
                         " positions; ask for 1 to " + std::to_string(positions) + " steps.");
    std::vector<std::int64_t> counts = {positions};
    for (std::int64_t step = 1; step <= steps; ++step) {
        // The order of operations is Python's: each rounds.
        const double share = std::cos(kPi / 2 * static_cast<double>(step) / static_cast<double>(steps));
        const auto still_masked = static_cast<std::int64_t>(std::floor(static_cast<double>(positions) * share));
        counts.push_back(std::max<std::int64_t>(1, std::min(counts.back() - 1, still_masked)));
    }
    return counts;
}

double guidance_at(const std::string& schedule, double scale, std::int64_t positions, std::int64_t masked_after) {
    if (schedule != "linear") return scale;
    const float growth =
        static_cast<float>(scale - 1) * static_cast<float>(positions - masked_after) / static_cast<float>(positions);
    return 1.0f + growth;
}

std::vector<Step> plan(const Sampling& sampling, std::int64_t low_positions, std::int64_t high_positions,
                       const std::optional<DrawnCounts>& drawn) {
    sampling.check_positions(low_positions, high_positions);
    const DrawnCounts first = drawn.value_or(DrawnCounts{low_positions, high_positions});
    const bool has_low = low_positions > 0;
    std::vector<Step> steps;
    if (has_low) plan_phase(steps, 0, true, low_positions, first.low, sampling);
    plan_phase(steps, has_low ? 1 : 0, false, high_positions, first.high, sampling);
    return steps;
}

}  // namespace himar::core::hi_mar
