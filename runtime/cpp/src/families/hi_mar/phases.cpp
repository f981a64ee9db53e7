#include "families/hi_mar/phases.h"

namespace himar::core {

std::vector<PhaseInfo> ModelInfo::phases() const {
    // Bundles of other phases lack the released names, so a reader that knows the released phases alone refuses them.
    const bool released = pivots == Pivots::kCondition && low_head == HeadKind::kMlp && high_head == HeadKind::kDit;
    const auto head = [&](HeadKind kind, const char* phase) {
        const std::string name = kind == HeadKind::kMlp ? "mlp_head" : "dit_head";
        return released ? name : name + "_" + phase;
    };
    const std::int64_t pivot_width = single_scale() ? 0 : pivots == Pivots::kVisual ? channels : width;
    std::vector<PhaseInfo> phases;
    if (!single_scale())
        phases.push_back({true, "transformer_low", head(low_head, "low"), low_head, cond_scale, 0, "low_tokens",
                          pivots == Pivots::kCondition, 0});
    phases.push_back({false, "transformer_high", head(high_head, "high"), high_head, grid(), low_positions(), "tokens",
                      false, pivot_width});
    return phases;
}

}  // namespace himar::core
