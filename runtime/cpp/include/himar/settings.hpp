// Part of himar.hpp: the settings of each family, as himar.h lists them.
#ifndef HIMAR_SETTINGS_HPP
#define HIMAR_SETTINGS_HPP

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "himar.h"
#include "view.hpp"

namespace himar {

// What manifests, recipes, requests and command lines call an enumeration's values 1, 2 …; 0 keeps the setting's.
inline std::vector<std::string> words_of(himar_guidance_schedule) { return {"linear", "constant"}; }
inline std::vector<std::string> words_of(himar_solver) { return {"ddpm", "ddim", "dpm++"}; }

// The value of an enumeration that a word names, if it names one.
template <class Enumeration>
std::optional<Enumeration> named(const std::string& word) {
    const std::vector<std::string> words = words_of(Enumeration{});
    const auto found = std::find(words.begin(), words.end(), word);
    if (found == words.end()) return std::nullopt;
    return static_cast<Enumeration>(found - words.begin() + 1);
}

// A field that may be left out: enumerations have a value for that. Text, of lists, is kept.
template <class Field>
using Optional = std::conditional_t<
    std::is_enum_v<Field>, Field,
    std::conditional_t<std::is_same_v<Field, const char*>, std::optional<std::string>, std::optional<Field>>>;

// Changes to a sampling setting of a hi_mar model; fields without a value keep the setting's. See himar_hi_mar_settings:
// they have its names and types, std::optional<double> temperature, himar_guidance_schedule guidance_schedule and so on;
// lists are std::optional<std::string>, JSON: low_diffusion_counts = "[20, 10]".
struct HiMarSettings {
    std::optional<double> guidance;
#define HIMAR_FIELD(kind, name) Optional<decltype(himar_hi_mar_settings::name)> name{};
    HIMAR_HI_MAR_SETTINGS(HIMAR_FIELD)
#undef HIMAR_FIELD

    // The settings as C takes them, as long as these live. Error for a value that means "not given" there.
    himar_hi_mar_settings to_c() const {
        himar_hi_mar_settings c = without_guidance();
        take("guidance", guidance, c.guidance);
        return c;
    }

    // The same with the setting's guidance, which a model of another family takes among its own.
    himar_hi_mar_settings without_guidance() const {
        himar_hi_mar_settings c;
        check(himar_hi_mar_settings_init(&c));
#define HIMAR_TAKE(kind, name) take(#name, name, c.name);
        HIMAR_HI_MAR_SETTINGS(HIMAR_TAKE)
#undef HIMAR_TAKE
        return c;
    }

private:
    static void take(const char* name, const std::optional<double>& value, double& c) {
        if (value && *value != *value)
            throw Error(HIMAR_ERROR_INPUT, std::string(name) + " is nan; it must be a number from 0 to 1000000.");
        if (value) c = *value;
    }
    static void take(const char* name, const std::optional<std::int32_t>& value, std::int32_t& c) {
        if (value && *value == c)
            throw Error(HIMAR_ERROR_INPUT, std::string(name) + " is " + std::to_string(c) + "; ask for at least " +
                                               std::to_string(c + 1) + ".");
        if (value) c = *value;
    }
    static void take(const char*, const std::optional<std::string>& value, const char*& c) {
        if (value) c = value->c_str();
    }
    template <class Enumeration>
    static void take(const char*, Enumeration value, Enumeration& c) {
        c = value;
    }
};

// Changes to a sampling setting of an hmar model, besides its guidance; fields without a value keep the setting's. See
// himar_hmar_settings.
struct HmarSettings {
    std::optional<std::int32_t> top_k;
    std::optional<double> top_p;
    std::optional<std::string> schedule;  // JSON: "[[1], [1, 3]]"
    std::optional<double> mask_guidance;
    std::optional<bool> all_scales, smooth;

    // The settings as C takes them, as long as these live. Error for a value that means "not given" there.
    himar_hmar_settings to_c(const std::optional<double>& guidance) const {
        himar_hmar_settings c;
        check(himar_hmar_settings_init(&c));
        take("guidance", guidance, c.guidance, "a number from 0 to 1000000");
        take("mask_guidance", mask_guidance, c.mask_guidance, "a number from 0 to 1000000");
        take("top_p", top_p, c.top_p, "above 0 and at most 1, where 1 keeps every code");
        if (top_k && *top_k < 0)
            throw Error(HIMAR_ERROR_INPUT, "top_k is " + std::to_string(*top_k) + "; it must be at least 0.");
        if (top_k) c.top_k = *top_k;
        if (schedule) c.schedule = schedule->c_str();
        if (all_scales) c.all_scales = *all_scales ? HIMAR_SWITCH_ON : HIMAR_SWITCH_OFF;
        if (smooth) c.smooth = *smooth ? HIMAR_SWITCH_ON : HIMAR_SWITCH_OFF;
        return c;
    }

private:
    static void take(const char* name, const std::optional<double>& value, double& c, const char* wanted) {
        if (value && *value != *value)
            throw Error(HIMAR_ERROR_INPUT, std::string(name) + " is nan; it must be " + wanted + ".");
        if (value) c = *value;
    }
};

}  // namespace himar

#endif
