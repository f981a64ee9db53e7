// The settings of one generation, as himar_kernels.families.hmar.SamplingConfig has them, and the forwards they make.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "families/family.h"
#include "families/hmar/scales.h"

namespace himar::core::hmar {

// Per scale, the counts of cells that its forwards fix: the first of the prediction, the others of masked steps.
using Schedule = std::vector<std::vector<std::int64_t>>;

struct Sampling final : Settings {
    double guidance = 1.5;  // g: weight 1 + g·s/(S-1) on the conditional logits of scale s
    std::int64_t top_k = 900;
    double top_p = 0.96;
    Schedule schedule;  // scales that it does not name have one count, their cells
    double mask_guidance = 1e-6;
    bool all_scales = false, smooth = false;

    bool masks() const;  // whether a scale has masked steps

    // InputError, naming the field, for a value out of range.
    void check() const;

    // InputError unless the schedule fits the scales, and top_k the number of codes.
    void check_model(const Scales& scales, std::int64_t vocab) const;

    Json to_json() const;  // as recipes show them
};

// Read one of the manifest's settings: fields that are absent keep their defaults, unknown ones are of a later version.
// BundleError for a value out of range.
Sampling read_sampling(const JsonReader& reader);

// Change what a caller's settings give. InputError for a value out of range.
void change(Sampling& sampling, const himar_hmar_settings& given);

// InputError where a caller's settings ask for guidance, of an edit without a class.
void check_unguided(const himar_hmar_settings& given);

// One forward. It draws a code for every cell of its scale.
struct Forward {
    std::size_t scale;
    std::int64_t step;      // 0 is the next-scale network; 1 … the masked one, whose codes are taken at masked cells alone
    double guidance;        // t: 1+t weighs the conditional logits, -t the unconditional ones
    std::int64_t remasked;  // cells that the next step redraws; 0 at the last forward of a scale
    std::int64_t halves;    // 2 where rows are [conditional; unconditional]
    std::size_t index;      // among all of a run
};

// All forwards of a run, in order; the settings fit the scales.
std::vector<Forward> plan(const Sampling& sampling, const Scales& scales);

}  // namespace himar::core::hmar
