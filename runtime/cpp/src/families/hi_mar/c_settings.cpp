// himar_hi_mar_settings: its defaults, its text, and what it changes of a sampling setting.
#include <cmath>
#include <limits>

#include "api/c_guard.h"
#include "families/hi_mar/model.h"
#include "families/hi_mar/sampling.h"
#include "himar/settings.hpp"
#include "text.h"

namespace himar::core::hi_mar {
namespace {

// A field's default, which keeps the setting's value, and whether a field is another.
void keep(double& field) { field = std::numeric_limits<double>::quiet_NaN(); }

template <class Field>
void keep(Field& field) {
    field = Field{};
}

bool is_given(double field) { return !std::isnan(field); }

bool is_given(std::int32_t field) { return field != 0; }

template <class Enumeration>
bool is_given(const Enumeration& field) {
    return number_of(field) != 0;
}

himar_hi_mar_settings defaults() {
    himar_hi_mar_settings settings{};
    settings.struct_size = sizeof settings;
    keep(settings.guidance);
#define HIMAR_KEEP(kind, name) keep(settings.name);
    HIMAR_HI_MAR_SETTINGS(HIMAR_KEEP)
#undef HIMAR_KEEP
    return settings;
}

himar_hi_mar_settings known(const himar_hi_mar_settings& settings) {
    return checked_params(settings, "himar_hi_mar_settings", "himar_hi_mar_settings_init");
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

template <class Enumeration>
std::string text_of(const Enumeration& field) {
    const std::string word = word_of(field);
    return word.empty() ? std::to_string(number_of(field)) : word;
}

template <class Field>
std::string entry(const char* name, const Field& field) {
    return std::string(" ") + name + "=" + (is_given(field) ? text_of(field) : "setting");
}

// Replace the value of a setting where a field is given.
void replace(const char*, double& value, double field) {
    if (is_given(field)) value = field;
}

void replace(const char*, std::int64_t& value, std::int32_t field) {
    if (is_given(field)) value = field;
}

const char* enumerators(himar_guidance_schedule) {
    return "HIMAR_GUIDANCE_LINEAR, HIMAR_GUIDANCE_CONSTANT or HIMAR_GUIDANCE_DEFAULT";
}

const char* enumerators(himar_solver) {
    return "HIMAR_SOLVER_DDPM, HIMAR_SOLVER_DDIM, HIMAR_SOLVER_DPMPP or HIMAR_SOLVER_DEFAULT";
}

template <class Enumeration>
void replace(const char* name, std::string& value, const Enumeration& field) {
    if (!is_given(field)) return;
    value = word_of(field);
    if (value.empty())
        throw InputError(std::string(name) + " is " + std::to_string(number_of(field)) + "; it must be " +
                         enumerators(Enumeration{}) + ".");
}

// InputError for a given field of phase low, where the model has a single scale.
template <class Field>
void refuse_low(const std::string& name, const Field& field) {
    if (name.rfind("low_", 0) == 0 && is_given(field))
        throw InputError(name + " is given, but this bundle's model has a single scale and so no phase low; leave it out.");
}

}  // namespace

void change(Sampling& sampling, const himar_hi_mar_settings& settings, bool single_scale) {
    const himar_hi_mar_settings given = known(settings);
    replace("guidance", sampling.low_guidance, given.guidance);
    replace("guidance", sampling.high_guidance, given.guidance);
#define HIMAR_REPLACE(kind, name) replace(#name, sampling.name, given.name);
    HIMAR_HI_MAR_SETTINGS(HIMAR_REPLACE)
#undef HIMAR_REPLACE
    sampling.check();
    if (!single_scale) return;
#define HIMAR_REFUSE_LOW(kind, name) refuse_low(#name, given.name);
    HIMAR_HI_MAR_SETTINGS(HIMAR_REFUSE_LOW)
#undef HIMAR_REFUSE_LOW
}

std::vector<std::string> changes(const himar_generate_params& params) {
    std::vector<std::string> names;
    if (params.hi_mar == nullptr) return names;
    const himar_hi_mar_settings settings = known(*params.hi_mar);
    if (is_given(settings.guidance)) names.emplace_back("guidance");
#define HIMAR_CHANGED(kind, name) if (is_given(settings.name)) names.emplace_back(#name);
    HIMAR_HI_MAR_SETTINGS(HIMAR_CHANGED)
#undef HIMAR_CHANGED
    return names;
}

std::string described(const himar_generate_params& params) {
    if (params.hi_mar == nullptr && params.hmar != nullptr) return "";
    const himar_hi_mar_settings settings = params.hi_mar == nullptr ? defaults() : known(*params.hi_mar);
    std::string text = entry("guidance", settings.guidance);
#define HIMAR_DESCRIBE(kind, name) text += entry(#name, settings.name);
    HIMAR_HI_MAR_SETTINGS(HIMAR_DESCRIBE)
#undef HIMAR_DESCRIBE
    return text;
}

}  // namespace himar::core::hi_mar

himar_status himar_hi_mar_settings_init(himar_hi_mar_settings* settings) {
    using namespace himar::core;
    return guarded([&] {
        given(settings, "settings") = hi_mar::defaults();
        return HIMAR_OK;
    });
}
