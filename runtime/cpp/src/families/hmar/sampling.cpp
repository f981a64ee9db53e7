#include "families/hmar/sampling.h"

#include <algorithm>

#include "bundle/json_reader.h"
#include "error.h"
#include "families/hmar/schedule_text.h"
#include "families/setting_values.h"
#include "text.h"

namespace himar::core::hmar {
namespace {

void check_share(double top_p) {
    if (!(top_p > 0 && top_p <= 1))
        throw InputError("top_p is " + shown_short(top_p) +
                         "; it must be above 0 and at most 1, where 1 keeps every code.");
}

bool switch_of(const char* name, const Json& found) {
    if (!found.is_boolean()) throw InputError(std::string(name) + " is " + shown(found) + "; it must be true or false.");
    return found.get<bool>();
}

void check_no_masks(const char* name, bool value, bool masks) {
    if (value && masks)
        throw InputError(std::string(name) + " is set, but masked steps are not defined with it; give every scale a "
                         "single entry in schedule, or leave schedule empty.");
}

std::int64_t sum_of(const std::vector<std::int64_t>& counts) {
    std::int64_t sum = 0;
    for (const std::int64_t count : counts)
        if (__builtin_add_overflow(sum, count, &sum)) return INT64_MAX;
    return sum;
}

}  // namespace

bool Sampling::masks() const {
    return std::any_of(schedule.begin(), schedule.end(), [](const auto& counts) { return counts.size() > 1; });
}

void Sampling::check() const {
    check_scale("guidance", guidance);
    check_scale("mask_guidance", mask_guidance);
    check_whole("top_k", top_k, 0, 0);
    check_share(top_p);
    check_no_masks("all_scales", all_scales, masks());
    check_no_masks("smooth", smooth, masks());
}

void Sampling::check_model(const Scales& scales, std::int64_t vocab) const {
    if (schedule.size() > scales.count())
        throw InputError("schedule has lists for " + std::to_string(schedule.size()) + " scales, but the model has " +
                         std::to_string(scales.count()) + "; leave the others out.");
    for (std::size_t scale = 0; scale < schedule.size(); ++scale) {
        const auto start = [&] {
            return "schedule of scale " + std::to_string(scale) + " is " + listed(schedule[scale]) + ", ";
        };
        const std::int64_t cells = scales.cells(scale), sum = sum_of(schedule[scale]);
        if (sum != cells)
            throw InputError(start() + "which sums to " + std::to_string(sum) + ", but the scale has " +
                             std::to_string(cells) + " cells; correct the counts.");
        if (scale == 0 && schedule[scale].size() > 1)
            throw InputError(start() + "but that scale has no masked steps; give [" + std::to_string(cells) + "].");
    }
    if (top_k > vocab)
        throw InputError("top_k is " + std::to_string(top_k) + ", but the model has " + std::to_string(vocab) +
                         " codes; ask for 0 (all) to " + std::to_string(vocab) + ".");
}

Json Sampling::to_json() const {
    return {{"guidance", guidance},     {"top_k", top_k},
            {"top_p", top_p},           {"schedule", schedule},
            {"mask_guidance", mask_guidance}, {"all_scales", all_scales},
            {"smooth", smooth}};
}

Sampling read_sampling(const JsonReader& reader) {
    Sampling setting;
    const Json& values = reader.values();
    const auto take = [&](const char* name, auto& value, auto read) {
        if (const auto found = values.find(name); found != values.end()) value = read(name, *found);
    };
    try {
        take("guidance", setting.guidance, real_of);
        take("mask_guidance", setting.mask_guidance, real_of);
        take("top_k", setting.top_k, whole_of);
        take("top_p", setting.top_p, real_of);
        take("schedule", setting.schedule, [](const char*, const Json& found) { return schedule_of(found); });
        take("all_scales", setting.all_scales, switch_of);
        take("smooth", setting.smooth, switch_of);
        setting.check();
    } catch (const InputError& error) {
        throw BundleError(reader.source() + ": " + reader.path() + ": " + error.what());
    }
    return setting;
}

std::vector<Forward> plan(const Sampling& sampling, const Scales& scales) {
    std::vector<Forward> forwards;
    for (std::size_t scale = 0; scale < scales.count(); ++scale) {
        std::int64_t redrawn = scales.cells(scale);
        std::vector<std::int64_t> counts = {redrawn};
        if (scale < sampling.schedule.size()) counts = sampling.schedule[scale];
        for (std::size_t step = 0; step < counts.size(); ++step) {
            const double guidance = sampling.guidance * (step > 0 ? sampling.mask_guidance : scales.ratio(scale));
            redrawn -= counts[step];
            const bool both = guidance != 0 || (sampling.all_scales && sampling.guidance != 0);
            forwards.push_back({scale, static_cast<std::int64_t>(step), guidance, redrawn, both ? 2 : 1,
                                forwards.size()});
        }
    }
    return forwards;
}

}  // namespace himar::core::hmar
