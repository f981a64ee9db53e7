#include "families/hi_mar/sampling.h"

#include <algorithm>
#include <tuple>

#include "bundle/json_reader.h"
#include "error.h"
#include "families/setting_values.h"
#include "himar/settings.hpp"
#include "text.h"

namespace himar::core::hi_mar {
namespace {

[[noreturn]] void refuse_word(const char* name, const std::string& value, const std::vector<std::string>& words) {
    throw InputError(std::string(name) + " is " + value + "; it must be " + alternatives(words) + ".");
}

void check_word(const char* name, const std::string& value, const std::vector<std::string>& words) {
    if (std::find(words.begin(), words.end(), value) == words.end()) refuse_word(name, in_quotes(value), words);
}

// A function for each kind of the list.
void check_steps(const char* name, std::int64_t value) { check_whole(name, value, 1, 0); }

void check_diffusion_steps(const char* name, std::int64_t value) { check_whole(name, value, 2, 1000); }

void check_schedule(const char* name, const std::string& value) {
    check_word(name, value, words_of(himar_guidance_schedule{}));
}

void check_solver(const char* name, const std::string& value) { check_word(name, value, words_of(himar_solver{})); }

void check_step_counts(const char* name, const std::vector<std::int64_t>& values) {
    for (std::size_t place = 0; place < values.size(); ++place)
        check_diffusion_steps(at_place(name, place).c_str(), values[place]);
}

void check_scales(const char* name, const std::vector<double>& values) {
    for (std::size_t place = 0; place < values.size(); ++place) check_scale(at_place(name, place).c_str(), values[place]);
}

void check_least_scale(const char* name, double value) { check_scale(name, value); }

void check_interval(const char* name, std::int64_t value) { check_whole(name, value, 1, 1000); }

void check_order(const char* name, std::int64_t value) {
    if (value < 0 || value > Evaluations::kMostOrder)
        throw InputError(std::string(name) + " is " + std::to_string(value) + "; it must be 0 to " +
                         std::to_string(Evaluations::kMostOrder) + ".");
}

// A list is empty, or has a value for each step of its phase; `kind` is what one is called.
void check_length(const std::string& name, std::size_t length, const char* kind, std::int64_t steps) {
    if (length == 0 || length == static_cast<std::size_t>(steps)) return;
    throw InputError(name + " has " + std::to_string(length) + " " + kind + (length == 1 ? "" : "s") + ", but " + name.substr(0, name.find('_')) +
                     "_steps is " + std::to_string(steps) + "; give one for each step.");
}

void check_lists(const std::string& name, const PhaseSampling& phase) {
    check_length(name + "_diffusion_counts", phase.diffusion_counts.size(), "count", phase.steps);
    check_length(name + "_guidances", phase.guidances.size(), "scale", phase.steps);
}

// What is said of forecasts must say something, and not diverge.
void check_forecast(const Sampling& sampling) {
    const Evaluations low = sampling.phase(true).evaluations, high = sampling.phase(false).evaluations, unsaid;
    const std::int64_t widest = std::max(low.interval, high.interval);
    for (const auto& [end, value, default_value] :
         {std::tuple("order", low.order, unsaid.order), std::tuple("first", low.first, unsaid.first),
          std::tuple("last", low.last, unsaid.last)})
        if (widest == 1 && value != default_value)
            throw InputError(std::string("forecast_") + end + " is " + std::to_string(value) +
                             ", but no phase is forecast; set low_forecast or high_forecast to 2 or more, or leave it out.");
    if (low.order == Evaluations::kMostOrder && widest > Evaluations::kWidestSecondOrder)
        throw InputError(std::string(low.interval == widest ? "low" : "high") + "_forecast is " + std::to_string(widest) +
                         " and forecast_order is " + std::to_string(low.order) +
                         ", which diverges over such gaps: 33 % of the digits were recognised (docs/forecast.md); use "
                         "order 1, or an interval up to " + std::to_string(Evaluations::kWidestSecondOrder) + ".");
}

void require_no_temperature(const Sampling& sampling) {
    if (sampling.temperature != 1)
        throw InputError("temperature is " + shown(sampling.temperature) +
                         ", but it scales the noise of reverse steps and solver " +
                         in_quotes(sampling.phase(false).solver) +
                         " adds none; set it to 1, or a phase's solver to 'ddpm'.");
}

void check_fit(const char* phase, std::int64_t steps, std::int64_t positions) {
    if (steps > positions)
        throw InputError(std::string(phase) + "_steps is " + std::to_string(steps) + ", but phase " + phase + " has only " +
                         std::to_string(positions) + " positions; ask for 1 to " + std::to_string(positions) + " steps.");
}

// A manifest's value for each kind.
void read_steps(const char* name, const Json& found, std::int64_t& value) { value = whole_of(name, found); }

void read_diffusion_steps(const char* name, const Json& found, std::int64_t& value) { read_steps(name, found, value); }

void read_scale(const char* name, const Json& found, double& value) { value = real_of(name, found); }

void read_schedule(const char* name, const Json& found, std::string& value) {
    if (!found.is_string()) refuse_word(name, shown(found), words_of(himar_guidance_schedule{}));
    value = found.get<std::string>();
}

void read_solver(const char* name, const Json& found, std::string& value) {
    if (!found.is_string()) refuse_word(name, shown(found), words_of(himar_solver{}));
    value = found.get<std::string>();
}

void read_step_counts(const char* name, const Json& found, std::vector<std::int64_t>& values) {
    values = whole_list_of(name, found);
}

void read_scales(const char* name, const Json& found, std::vector<double>& values) { values = real_list_of(name, found); }

void read_least_scale(const char* name, const Json& found, double& value) { read_scale(name, found, value); }

void read_interval(const char* name, const Json& found, std::int64_t& value) { read_steps(name, found, value); }

void read_order(const char* name, const Json& found, std::int64_t& value) { read_steps(name, found, value); }

// Readers from before solvers, lists and forecasts take every recipe that they can follow, and refuse the others: settings
// of later kinds are written where they say something.
bool is_always_written(const std::string& kind) {
    return kind == "steps" || kind == "scale" || kind == "schedule" || kind == "diffusion_steps";
}

}  // namespace

void Sampling::check() const {
#define HIMAR_CHECK(kind, name) check_##kind(#name, name);
    HIMAR_HI_MAR_SETTINGS(HIMAR_CHECK)
#undef HIMAR_CHECK
    check_lists("low", phase(true));
    check_lists("high", phase(false));
    if (phase(true).solver != "ddpm" && phase(false).solver != "ddpm") require_no_temperature(*this);
    check_forecast(*this);
}

void Sampling::check_positions(std::int64_t low, std::int64_t high) const {
    if (low == 0 && phase(false).solver != "ddpm") require_no_temperature(*this);
    if (low != 0) check_fit("low", phase(true).steps, low);
    check_fit("high", phase(false).steps, high);
}

Json Sampling::to_json() const {
    const Sampling unsaid;
    Json values;
#define HIMAR_WRITE(kind, name) if (is_always_written(#kind) || name != unsaid.name) values[#name] = name;
    HIMAR_HI_MAR_SETTINGS(HIMAR_WRITE)
#undef HIMAR_WRITE
    return values;
}

Sampling read_sampling(const JsonReader& reader) {
    Sampling setting;
    const Json& values = reader.values();
    try {
#define HIMAR_READ(kind, name) \
    if (const auto found = values.find(#name); found != values.end()) read_##kind(#name, *found, setting.name);
        HIMAR_HI_MAR_SETTINGS(HIMAR_READ)
#undef HIMAR_READ
        setting.check();
    } catch (const InputError& error) {
        throw BundleError(reader.source() + ": " + reader.path() + ": " + error.what());
    }
    return setting;
}

}  // namespace himar::core::hi_mar
