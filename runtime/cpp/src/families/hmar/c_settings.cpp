// himar_hmar_settings: its defaults, its text, and what it changes of a sampling setting.
#include <cmath>
#include <limits>

#include "api/c_guard.h"
#include "families/hmar/model.h"
#include "families/hmar/sampling.h"
#include "families/hmar/schedule_text.h"
#include "text.h"

namespace himar::core::hmar {
namespace {

constexpr double kKept = std::numeric_limits<double>::quiet_NaN();
constexpr std::int32_t kKeptWhole = -1;

himar_hmar_settings defaults() {
    return {sizeof(himar_hmar_settings), kKept, kKept, kKept, nullptr, kKeptWhole, HIMAR_SWITCH_DEFAULT, HIMAR_SWITCH_DEFAULT};
}

himar_hmar_settings known(const himar_hmar_settings& settings) {
    return checked_params(settings, "himar_hmar_settings", "himar_hmar_settings_init");
}

bool is_given(double field) { return !std::isnan(field); }
bool is_given(std::int32_t field) { return field != kKeptWhole; }
bool is_given(const char* field) { return field != nullptr; }
bool is_given(const himar_switch& field) { return number_of(field) != HIMAR_SWITCH_DEFAULT; }

std::string text_of(double field) { return shown(field); }
std::string text_of(std::int32_t field) { return std::to_string(field); }
std::string text_of(const char* field) { return field; }
std::string text_of(const himar_switch& field) {
    const int number = number_of(field);
    return number == HIMAR_SWITCH_ON ? "on" : number == HIMAR_SWITCH_OFF ? "off" : std::to_string(number);
}

void replace(const char*, double& value, double field) { value = field; }
void replace(const char*, std::int64_t& value, std::int32_t field) { value = field; }
void replace(const char*, Schedule& value, const char* field) { value = schedule_of_text(field); }
void replace(const char* name, bool& value, const himar_switch& field) {
    const int number = number_of(field);
    if (number != HIMAR_SWITCH_ON && number != HIMAR_SWITCH_OFF)
        throw InputError(std::string(name) + " is " + std::to_string(number) +
                         "; it must be HIMAR_SWITCH_ON, HIMAR_SWITCH_OFF or HIMAR_SWITCH_DEFAULT.");
    value = number == HIMAR_SWITCH_ON;
}

// visit(name, field, the member of Sampling) for every field.
template <class Visit>
void for_each(const himar_hmar_settings& settings, Sampling& sampling, Visit visit) {
    visit("guidance", settings.guidance, sampling.guidance);
#define HIMAR_VISIT(kind, name) visit(#name, settings.name, sampling.name);
    HIMAR_HMAR_SETTINGS(HIMAR_VISIT)
#undef HIMAR_VISIT
}

}  // namespace

void change(Sampling& sampling, const himar_hmar_settings& settings) {
    for_each(known(settings), sampling, [](const char* name, const auto& field, auto& value) {
        if (is_given(field)) replace(name, value, field);
    });
    sampling.check();
}

void check_unguided(const himar_hmar_settings& settings) {
    const double guidance = known(settings).guidance;
    if (is_given(guidance) && guidance != 0)
        throw InputError("guidance is " + shown_short(guidance) + ", but no class is given, and without one nothing "
                         "guides an edit; give a class, or leave guidance out.");
}

std::vector<std::string> changes(const himar_generate_params& params) {
    std::vector<std::string> names;
    if (params.hmar == nullptr) return names;
    Sampling unused;
    for_each(known(*params.hmar), unused, [&](const char* name, const auto& field, auto&) {
        if (is_given(field)) names.emplace_back(name);
    });
    return names;
}

std::string described(const himar_generate_params& params) {
    std::string text;
    if (params.hmar == nullptr) return text;
    Sampling unused;
    for_each(known(*params.hmar), unused, [&](const char* name, const auto& field, auto&) {
        text += std::string(" ") + name + "=" + (is_given(field) ? text_of(field) : "setting");
    });
    return text;
}

}  // namespace himar::core::hmar

himar_status himar_hmar_settings_init(himar_hmar_settings* settings) {
    using namespace himar::core;
    return guarded([&] {
        given(settings, "settings") = hmar::defaults();
        return HIMAR_OK;
    });
}
