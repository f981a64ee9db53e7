// himar_hi_mar_settings: its defaults, its text, and what it changes of a sampling setting.
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "api/c_guard.h"
#include "bundle/json_reader.h"
#include "families/hi_mar/model.h"
#include "families/hi_mar/sampling.h"
#include "families/setting_values.h"
#include "himar/settings.hpp"
#include "text.h"

namespace himar::core::hi_mar {
namespace {

// A field's default, which keeps the setting's value.
constexpr void keep(double& field) { field = std::numeric_limits<double>::quiet_NaN(); }

template <class Field>
constexpr void keep(Field& field) {
    field = Field{};
}

constexpr himar_hi_mar_settings defaults() {
    himar_hi_mar_settings settings{};
    settings.struct_size = sizeof settings;
    keep(settings.guidance);
#define HIMAR_KEEP(kind, name) keep(settings.name);
    HIMAR_HI_MAR_SETTINGS(HIMAR_KEEP)
#undef HIMAR_KEEP
    settings.forecast_order = -1;  // 0 is one
    return settings;
}

constexpr himar_hi_mar_settings kKept = defaults();

// Whether a field is another than its default.
bool differs(double field, double) { return !std::isnan(field); }

bool differs(std::int32_t field, std::int32_t kept) { return field != kept; }

bool differs(const char* field, const char*) { return field != nullptr; }

template <class Enumeration>
bool differs(const Enumeration& field, const Enumeration&) {
    return number_of(field) != 0;
}

// Fields that an earlier header lacked keep the setting's values.
himar_hi_mar_settings known(const himar_hi_mar_settings& settings) {
    constexpr std::size_t before_lists = offsetof(himar_hi_mar_settings, low_diffusion_counts);
    constexpr std::size_t before_held = offsetof(himar_hi_mar_settings, modulation_interval);
    const himar_hi_mar_settings given =
        checked_params(settings, "himar_hi_mar_settings", "himar_hi_mar_settings_init", {before_lists, before_held});
    himar_hi_mar_settings all = kKept;
    std::memcpy(&all, &given, settings.struct_size);
    all.struct_size = sizeof all;
    return all;
}

// The word of an enumeration's value; "" for a number that the enumeration does not list.
template <class Enumeration>
std::string word_of(const Enumeration& field) {
    const std::vector<std::string> words = words_of(Enumeration{});
    const int place = number_of(field) - 1;
    return place >= 0 && place < static_cast<int>(words.size()) ? words[static_cast<std::size_t>(place)] : "";
}

std::string text_of(double field) { return shown(field); }

std::string text_of(std::int32_t field) { return std::to_string(field); }

std::string text_of(const char* field) { return field; }

template <class Enumeration>
std::string text_of(const Enumeration& field) {
    const std::string word = word_of(field);
    return word.empty() ? std::to_string(number_of(field)) : word;
}

// Replace the value of a setting.
void replace(const char*, double& value, double field) { value = field; }

void replace(const char*, std::int64_t& value, std::int32_t field) { value = field; }

Json list_of(const char* name, const char* text) {
    if (std::optional<Json> list = json_of(text)) return *std::move(list);
    throw InputError(std::string(name) + " is " + in_quotes(text) +
                     "; it must be a list in JSON, for example [250, 50] of two steps.");
}

void replace(const char* name, std::vector<std::int64_t>& values, const char* field) {
    values = whole_list_of(name, list_of(name, field));
}

void replace(const char* name, std::vector<double>& values, const char* field) {
    values = real_list_of(name, list_of(name, field));
}

const char* enumerators(himar_guidance_schedule) {
    return "HIMAR_GUIDANCE_LINEAR, HIMAR_GUIDANCE_CONSTANT or HIMAR_GUIDANCE_DEFAULT";
}

const char* enumerators(himar_solver) {
    return "HIMAR_SOLVER_DDPM, HIMAR_SOLVER_DDIM, HIMAR_SOLVER_DPMPP or HIMAR_SOLVER_DEFAULT";
}

template <class Enumeration>
void replace(const char* name, std::string& value, const Enumeration& field) {
    value = word_of(field);
    if (value.empty())
        throw InputError(std::string(name) + " is " + std::to_string(number_of(field)) + "; it must be " +
                         enumerators(Enumeration{}) + ".");
}

// visit(name, field, the member of Sampling) for every field that is given, but `guidance`.
template <class Visit>
void for_each_given(const himar_hi_mar_settings& settings, Sampling& sampling, Visit visit) {
#define HIMAR_VISIT(kind, name) \
    if (differs(settings.name, kKept.name)) visit(std::string(#name), settings.name, sampling.name);
    HIMAR_HI_MAR_SETTINGS(HIMAR_VISIT)
#undef HIMAR_VISIT
}

bool has_guidance(const himar_hi_mar_settings& settings) { return differs(settings.guidance, kKept.guidance); }

// Take away the lists that stand in place of a given field.
void take_lists_away(Sampling& sampling, const himar_hi_mar_settings& settings) {
    for_each_given(settings, sampling, [&](const std::string& name, const auto&, auto&) {
        if (name == "low_diffusion_steps") sampling.low_diffusion_counts.clear();
        if (name == "high_diffusion_steps") sampling.high_diffusion_counts.clear();
        if (name == "low_guidance" || name == "guidance_schedule") sampling.low_guidances.clear();
        if (name == "high_guidance" || name == "guidance_schedule") sampling.high_guidances.clear();
    });
    if (!has_guidance(settings)) return;
    sampling.low_guidances.clear();
    sampling.high_guidances.clear();
}

}  // namespace

void change(Sampling& sampling, const himar_hi_mar_settings& settings, bool single_scale) {
    const himar_hi_mar_settings given = known(settings);
    take_lists_away(sampling, given);
    if (has_guidance(given)) sampling.low_guidance = sampling.high_guidance = given.guidance;
    for_each_given(given, sampling, [](const std::string& name, const auto& field, auto& value) {
        replace(name.c_str(), value, field);
    });
    sampling.check();
    if (!single_scale) return;
    for_each_given(given, sampling, [](const std::string& name, const auto&, auto&) {
        if (name.rfind("low_", 0) == 0)
            throw InputError(name + " is given, but this bundle's model has a single scale and so no phase low; leave it out.");
    });
}

void check_unguided(const himar_hi_mar_settings& settings) {
    const himar_hi_mar_settings given = known(settings);
    const auto refuse = [](const std::string& name, const std::string& value) {
        throw InputError(name + " is " + value + ", but neither class nor prompt is given, and without one nothing guides "
                         "an edit; give one, or leave " + name + " out.");
    };
    const auto check_value = [&](const char* name, double field) {
        if (differs(field, kKept.guidance) && field != 1) refuse(name, shown(field));
    };
    const auto check_list = [&](const char* name, const char* field) {
        if (field == nullptr) return;
        std::vector<std::string> numbers;
        for (const double number : real_list_of(name, list_of(name, field))) numbers.push_back(shown(number));
        refuse(name, "[" + joined(numbers) + "]");
    };
    check_value("guidance", given.guidance);
    check_value("low_guidance", given.low_guidance);
    check_value("high_guidance", given.high_guidance);
    check_list("low_guidances", given.low_guidances);
    check_list("high_guidances", given.high_guidances);
    if (differs(given.guidance_schedule, kKept.guidance_schedule))
        refuse("guidance_schedule", text_of(given.guidance_schedule));
    check_value("least_guidance", given.least_guidance);
}

std::vector<std::string> changes(const himar_generate_params& params) {
    std::vector<std::string> names;
    if (params.hi_mar == nullptr) return names;
    const himar_hi_mar_settings settings = known(*params.hi_mar);
    if (has_guidance(settings)) names.emplace_back("guidance");
    Sampling unused;
    for_each_given(settings, unused, [&](const std::string& name, const auto&, auto&) { names.push_back(name); });
    return names;
}

std::string described(const himar_generate_params& params) {
    if (params.hi_mar == nullptr && params.hmar != nullptr) return "";
    const himar_hi_mar_settings settings = params.hi_mar == nullptr ? kKept : known(*params.hi_mar);
    const auto entry = [](const char* name, const auto& field, const auto& kept) {
        return std::string(" ") + name + "=" + (differs(field, kept) ? text_of(field) : "setting");
    };
    std::string text = entry("guidance", settings.guidance, kKept.guidance);
#define HIMAR_DESCRIBE(kind, name) text += entry(#name, settings.name, kKept.name);
    HIMAR_HI_MAR_SETTINGS(HIMAR_DESCRIBE)
#undef HIMAR_DESCRIBE
    return text;
}

}  // namespace himar::core::hi_mar

himar_status himar_hi_mar_settings_init(himar_hi_mar_settings* settings) {
    using namespace himar::core;
    return guarded([&] {
        given(settings, "settings") = hi_mar::kKept;
        return HIMAR_OK;
    });
}
