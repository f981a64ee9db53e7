#include "api/request.h"

#include <cmath>
#include <string>

#include "api/c_guard.h"
#include "error.h"
#include "families/hi_mar/draws.h"
#include "text.h"

namespace himar::core {
namespace {

constexpr std::uint64_t kMostImages = std::uint64_t{1} << 32;

std::vector<std::int64_t> read_labels(const himar_generate_params& params, std::int64_t classes) {
    if (params.label_count == 0 || params.labels == nullptr)
        throw InputError("labels is empty; give at least one class number.");
    if (params.label_count > kMostImages)
        throw InputError("label_count is " + std::to_string(params.label_count) + "; at most 2^32 images can be counted.");
    for (std::size_t i = 0; i < params.label_count; ++i)
        if (params.labels[i] < 0 || params.labels[i] >= classes)
            throw InputError("label " + std::to_string(params.labels[i]) + " (number " + std::to_string(i) +
                             " of the list) is not a class of this model; classes are the whole numbers 0 to " +
                             std::to_string(classes - 1) + ".");
    return {params.labels, params.labels + params.label_count};
}

Sampling choose_setting(const char* name, const Manifest& manifest) {
    if (name == nullptr) return manifest.sampling.front().second;
    std::string known;
    for (const auto& [each, setting] : manifest.sampling) {
        if (each == name) return setting;
        known += (known.empty() ? "" : ", ") + each;
    }
    throw InputError("sampling " + in_quotes(name) + " is not in this bundle; it has " + known + ".");
}

// Replace the value of a setting unless the caller's is the default, which keeps it.
void replace(const char*, double& value, double given) {
    if (!std::isnan(given)) value = given;
}

void replace(const char*, std::int64_t& value, std::int32_t given) {
    if (given != 0) value = given;
}

void replace(const char* name, std::string& value, const himar_guidance_schedule& given) {
    const std::string word = word_of(given);
    if (word.empty())
        throw InputError(std::string(name) + " is " + std::to_string(number_of(given)) +
                         "; it must be HIMAR_GUIDANCE_LINEAR, HIMAR_GUIDANCE_CONSTANT or HIMAR_GUIDANCE_DEFAULT.");
    if (number_of(given) != HIMAR_GUIDANCE_DEFAULT) value = word;
}

void replace(const char* name, std::string& value, const himar_solver& given) {
    const std::string word = word_of(given);
    if (word.empty())
        throw InputError(std::string(name) + " is " + std::to_string(number_of(given)) +
                         "; it must be HIMAR_SOLVER_DDPM, HIMAR_SOLVER_DDIM, HIMAR_SOLVER_DPMPP or HIMAR_SOLVER_DEFAULT.");
    if (number_of(given) != HIMAR_SOLVER_DEFAULT) value = word;
}

// InputError if a caller gave a field of phase low, for a model that has a single scale and so none.
void require_phase_low(const himar_hi_mar_settings& given) {
    const char* name = !std::isnan(given.low_guidance)          ? "low_guidance"
                       : given.low_steps != 0                   ? "low_steps"
                       : given.low_diffusion_steps != 0         ? "low_diffusion_steps"
                       : number_of(given.low_solver) != 0       ? "low_solver"
                                                                : nullptr;
    if (name != nullptr)
        throw InputError(std::string(name) + " is given, but this bundle's model has a single scale and so no phase low; "
                         "leave it out.");
}

Sampling read_sampling(const himar_generate_params& params, const Manifest& manifest) {
    Sampling sampling = choose_setting(params.sampling, manifest);
    if (params.hi_mar != nullptr) {
        const himar_hi_mar_settings given = known(*params.hi_mar);
        replace("guidance", sampling.low_guidance, given.guidance);
        replace("guidance", sampling.high_guidance, given.guidance);
#define HIMAR_REPLACE(name) replace(#name, sampling.name, given.name);
        HIMAR_HI_MAR_SETTINGS(HIMAR_REPLACE)
#undef HIMAR_REPLACE
        sampling.check();
        if (manifest.model.single_scale()) require_phase_low(given);
    }
    sampling.check_positions(manifest.model.low_positions(), manifest.model.high_positions());
    return sampling;
}

}  // namespace

Request read_request(const himar_generate_params& params, const Manifest& manifest) {
    Request request{read_labels(params, manifest.model.classes), params.seed, params.first_index, {}, params.draws};
    const std::uint64_t last = kMostImages - request.labels.size();
    if (request.first_index > last)
        throw InputError("first_index is " + std::to_string(request.first_index) + "; it must be 0 to " +
                         std::to_string(last) + ".");
    request.sampling = read_sampling(params, manifest);
    if (request.draws != nullptr) {
        const GivenDraws checked(*request.draws);
        if (request.seed != 0)
            throw InputError("both seed " + std::to_string(request.seed) +
                             " and draws are given; draws would ignore the seed: give one of them.");
    }
    return request;
}

}  // namespace himar::core
