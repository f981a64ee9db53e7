// The parameter structs of the C interface: defaults, sizes, text.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "api/c_guard.h"
#include "text.h"

namespace himar::core {
namespace {

himar_load_params load_defaults() {
    himar_load_params params{};
    params.struct_size = sizeof params;
    return params;
}

himar_generate_params generate_defaults() {
    himar_generate_params params{};
    params.struct_size = sizeof params;
    return params;
}

himar_hi_mar_settings hi_mar_defaults() {
    himar_hi_mar_settings settings{};
    settings.struct_size = sizeof settings;
    settings.guidance = settings.low_guidance = settings.high_guidance = settings.temperature =
        std::numeric_limits<double>::quiet_NaN();
    return settings;
}

template <class Params>
Params checked(const Params& params, const char* name, const char* init) {
    if (params.struct_size != sizeof params)
        throw InputError(std::string(name) + ".struct_size is " + std::to_string(params.struct_size) + "; it must be " +
                         std::to_string(sizeof params) + ": call " + init +
                         " first, and compile with the header of the library that is linked.");
    return params;
}

template <std::size_t count>
std::string word_at(int number, const char* const (&words)[count]) {
    return number >= 0 && number < static_cast<int>(count) ? words[number] : "";
}

std::string text_or(const char* text, const char* other) { return text == nullptr ? other : in_quotes(text); }

// Settings as `described` shows them.
std::string value_of(double value) { return std::isnan(value) ? "setting" : shown(value); }

std::string value_of(std::int32_t value) { return value == 0 ? "setting" : std::to_string(value); }

template <class Enumeration>
std::string value_of(const Enumeration& value) {
    const std::string word = word_of(value);
    return word.empty() ? std::to_string(number_of(value)) : word;
}

std::string described(const himar_generate_params& params) {
    std::string text = "labels=[";
    const std::size_t most = 16;
    for (std::size_t i = 0; params.labels != nullptr && i < std::min(params.label_count, most); ++i)
        text += (i == 0 ? "" : ",") + std::to_string(params.labels[i]);
    if (params.label_count > most) text += ",… (" + std::to_string(params.label_count) + ")";
    text += "] seed=" + std::to_string(params.seed) + " first_index=" + std::to_string(params.first_index) +
            " sampling=" + text_or(params.sampling, "first");
    const himar_hi_mar_settings settings = params.hi_mar == nullptr ? hi_mar_defaults() : known(*params.hi_mar);
    text += " guidance=" + value_of(settings.guidance);
#define HIMAR_DESCRIBE(name) text += " " #name "=" + value_of(settings.name);
    HIMAR_HI_MAR_SETTINGS(HIMAR_DESCRIBE)
#undef HIMAR_DESCRIBE
    return text + " on_step=" + (params.on_step == nullptr ? "none" : "given") +
           " draws=" + (params.draws == nullptr ? "the seed's" : "given");
}

himar_status write_text(const std::string& whole, char* text, std::size_t capacity, std::size_t* needed) {
    if (capacity > 0) {
        const std::size_t fits = std::min(whole.size(), capacity - 1);
        std::memcpy(&given(text, "text"), whole.data(), fits);
        text[fits] = '\0';
    }
    if (needed != nullptr) *needed = whole.size() + 1;
    return HIMAR_OK;
}

}  // namespace

std::string word_of(const himar_guidance_schedule& schedule) {
    return word_at(number_of(schedule), {"setting", "linear", "constant"});
}

std::string word_of(const himar_solver& solver) {
    return word_at(number_of(solver), {"setting", "ddpm", "ddim", "dpm++"});
}

himar_load_params known(const himar_load_params& params) {
    return checked(params, "himar_load_params", "himar_load_params_init");
}

himar_generate_params known(const himar_generate_params& params) {
    return checked(params, "himar_generate_params", "himar_generate_params_init");
}

himar_hi_mar_settings known(const himar_hi_mar_settings& settings) {
    return checked(settings, "himar_hi_mar_settings", "himar_hi_mar_settings_init");
}

}  // namespace himar::core

using namespace himar::core;

himar_status himar_load_params_init(himar_load_params* params) {
    return guarded([&] {
        given(params, "params") = load_defaults();
        return HIMAR_OK;
    });
}

himar_status himar_generate_params_init(himar_generate_params* params) {
    return guarded([&] {
        given(params, "params") = generate_defaults();
        return HIMAR_OK;
    });
}

himar_status himar_hi_mar_settings_init(himar_hi_mar_settings* settings) {
    return guarded([&] {
        given(settings, "settings") = hi_mar_defaults();
        return HIMAR_OK;
    });
}

himar_status himar_load_params_to_string(const himar_load_params* params, char* text, size_t capacity, size_t* needed) {
    return guarded([&] {
        const himar_load_params p = known(given(params, "params"));
        const std::string threads = p.threads == 0 ? "all" : std::to_string(p.threads);
        return write_text("device=" + text_or(p.device, "'cpu'") + " backend=" + text_or(p.backend, "the bundle's") +
                              " threads=" + threads,
                          text, capacity, needed);
    });
}

himar_status himar_generate_params_to_string(const himar_generate_params* params, char* text, size_t capacity,
                                             size_t* needed) {
    return guarded([&] { return write_text(described(known(given(params, "params"))), text, capacity, needed); });
}
