#include "families/hi_mar/sampling.h"

#include <algorithm>

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

template <class Value>
bool is_written(const Value&) {
    return true;
}

// Readers from before solvers take every recipe that they can follow, and refuse the others.
bool is_written(const std::string& value) { return value != "ddpm"; }

}  // namespace

void Sampling::check() const {
#define HIMAR_CHECK(kind, name) check_##kind(#name, name);
    HIMAR_HI_MAR_SETTINGS(HIMAR_CHECK)
#undef HIMAR_CHECK
    if (phase(true).solver != "ddpm" && phase(false).solver != "ddpm") require_no_temperature(*this);
}

void Sampling::check_positions(std::int64_t low, std::int64_t high) const {
    if (low == 0 && phase(false).solver != "ddpm") require_no_temperature(*this);
    if (low != 0) check_fit("low", phase(true).steps, low);
    check_fit("high", phase(false).steps, high);
}

Json Sampling::to_json() const {
    Json values;
#define HIMAR_WRITE(kind, name) if (is_written(name)) values[#name] = name;
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
