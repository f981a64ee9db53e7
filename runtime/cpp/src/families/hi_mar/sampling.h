// The settings of one generation, as himar_kernels.families.hi_mar.SamplingConfig has them.
//
// HIMAR_HI_MAR_SETTINGS in himar.h lists them by name and kind: manifests, recipes, parameters, requests and command lines
// are read and written along that list.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "families/family.h"
#include "families/hi_mar/evaluations.h"

namespace himar::core::hi_mar {

// What one phase needs of them; docs/model.md §5-6.
struct PhaseSampling {
    std::int64_t steps;
    double guidance;
    std::int64_t diffusion_steps;
    const std::string& solver;  // as long as the settings, and so the lists
    const std::vector<std::int64_t>& diffusion_counts;
    const std::vector<double>& guidances;
    Evaluations evaluations;

    // Length of the chain in an autoregressive step, by its entry in the list.
    std::int64_t chain_length(std::int64_t entry) const {
        return diffusion_counts.empty() ? diffusion_steps : diffusion_counts[static_cast<std::size_t>(entry)];
    }
};

struct Sampling final : Settings {
    std::int64_t low_steps = 32, high_steps = 4;
    double low_guidance = 1.0, high_guidance = 1.0;
    std::string guidance_schedule = "linear";  // or "constant"
    double temperature = 1.0;
    std::int64_t low_diffusion_steps = 100, high_diffusion_steps = 250;
    std::string low_solver = "ddpm", high_solver = "ddpm";  // or "ddim", "dpm++": see chain.h

    // A value for each autoregressive step of a phase, in place of the one for all; empty where there is that one.
    std::vector<std::int64_t> low_diffusion_counts, high_diffusion_counts;
    std::vector<double> low_guidances, high_guidances;
    double least_guidance = 0.0;  // steps whose scale is below it run the conditional half alone

    // Of Evaluations: low_forecast and high_forecast are the intervals.
    std::int64_t low_forecast = 1, high_forecast = 1, forecast_order = 1, forecast_first = 8, forecast_last = 3;
    std::int64_t guidance_interval = 1;
    std::int64_t modulation_interval = 1;  // of DiT heads; others do without

    PhaseSampling phase(bool is_low) const {
        Evaluations each{low_forecast,  forecast_order,    forecast_first,
                         forecast_last, guidance_interval, modulation_interval};
        if (is_low)
            return {low_steps, low_guidance, low_diffusion_steps, low_solver, low_diffusion_counts, low_guidances, each};
        each.interval = high_forecast;
        return {high_steps, high_guidance, high_diffusion_steps, high_solver, high_diffusion_counts, high_guidances, each};
    }

    // InputError, naming the field, for a value out of range.
    void check() const;

    // InputError unless every step of each phase can reveal at least one of its positions. With a single scale, low = 0,
    // the low settings say nothing.
    void check_positions(std::int64_t low, std::int64_t high) const;

    Json to_json() const;  // as recipes show them
};

// Read one of the manifest's settings: fields that are absent keep their defaults, unknown ones are of a later version.
// BundleError for a value out of range.
Sampling read_sampling(const JsonReader& reader);

// Change what a caller's settings give. InputError for a value out of range, or for one of phase low where there is a
// single scale.
void change(Sampling& sampling, const himar_hi_mar_settings& given, bool single_scale);

// InputError for settings that ask for guidance, of an edit that has neither class nor text to lead to.
void check_unguided(const himar_hi_mar_settings& given);

}  // namespace himar::core::hi_mar
