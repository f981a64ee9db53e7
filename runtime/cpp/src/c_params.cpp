// The parameter structs of the C interface: defaults, sizes, text.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <limits>

#include "c_guard.h"
#include "enumeration.h"
#include "text.h"

namespace himar::core {
namespace {

constexpr double kNotGiven = std::numeric_limits<double>::quiet_NaN();
// Sizes of the parameters of a generation in the header's earlier versions: before draws, and before solvers.
constexpr std::size_t kBeforeDraws = offsetof(himar_generate_params, draws);
constexpr std::size_t kBeforeSolvers = offsetof(himar_generate_params, low_solver);

himar_load_params load_defaults() {
    himar_load_params params{};
    params.struct_size = sizeof params;
    return params;
}

himar_generate_params generate_defaults() {
    himar_generate_params params{};
    params.struct_size = sizeof params;
    params.guidance = params.low_guidance = params.high_guidance = params.temperature = kNotGiven;
    return params;
}

template <class Params>
Params taken_over(const Params& params, Params defaults, std::initializer_list<std::size_t> earlier, const char* name) {
    const std::size_t size = params.struct_size;
    if (size != sizeof(Params) && std::find(earlier.begin(), earlier.end(), size) == earlier.end())
        throw InputError(std::string(name) + ".struct_size is " + std::to_string(size) + "; it must be " +
                         std::to_string(sizeof(Params)) + ": call " + name +
                         "_init first, and compile with the header of the library that is linked.");
    std::memcpy(static_cast<void*>(&defaults), &params, size);
    defaults.struct_size = sizeof(Params);
    return defaults;
}

std::string text_or(const char* text, const char* other) { return text == nullptr ? other : in_quotes(text); }

std::string number_or_setting(double value) { return std::isnan(value) ? "setting" : shown(value); }

std::string count_or_setting(std::int32_t value) { return value == 0 ? "setting" : std::to_string(value); }

// The value of an enumeration, 0 … 3, that stands for one of the words.
std::string word_of(int value, const char* first, const char* second, const char* third = nullptr) {
    const char* const words[] = {"setting", first, second, third};
    return value >= 0 && value < 4 && words[value] != nullptr ? words[value] : std::to_string(value);
}

std::string solver_name(const himar_solver& solver) { return word_of(number_of(solver), "ddpm", "ddim", "dpm++"); }

std::string described(const himar_generate_params& params) {
    std::string labels;
    const std::size_t most = 16;
    for (std::size_t i = 0; params.labels != nullptr && i < std::min(params.label_count, most); ++i)
        labels += (i == 0 ? "" : ",") + std::to_string(params.labels[i]);
    if (params.label_count > most) labels += ",… (" + std::to_string(params.label_count) + ")";
    return "labels=[" + labels + "] seed=" + std::to_string(params.seed) +
           " first_index=" + std::to_string(params.first_index) + " sampling=" + text_or(params.sampling, "first") +
           " guidance=" + number_or_setting(params.guidance) + " low_guidance=" + number_or_setting(params.low_guidance) +
           " high_guidance=" + number_or_setting(params.high_guidance) +
           " temperature=" + number_or_setting(params.temperature) + " low_steps=" + count_or_setting(params.low_steps) +
           " high_steps=" + count_or_setting(params.high_steps) +
           " low_diffusion_steps=" + count_or_setting(params.low_diffusion_steps) +
           " high_diffusion_steps=" + count_or_setting(params.high_diffusion_steps) + " guidance_schedule=" +
           word_of(number_of(params.guidance_schedule), "linear", "constant") +
           " low_solver=" + solver_name(params.low_solver) + " high_solver=" + solver_name(params.high_solver) +
           " on_step=" + (params.on_step == nullptr ? "none" : "given") +
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

himar_load_params known(const himar_load_params& params) {
    return taken_over(params, load_defaults(), {}, "himar_load_params");
}

himar_generate_params known(const himar_generate_params& params) {
    return taken_over(params, generate_defaults(), {kBeforeDraws, kBeforeSolvers}, "himar_generate_params");
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
