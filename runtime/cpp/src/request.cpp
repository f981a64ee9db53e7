#include "request.h"

#include <cmath>
#include <iterator>
#include <string>

#include "draws.h"
#include "enumeration.h"
#include "error.h"
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

void replace(double& value, double given) {
    if (!std::isnan(given)) value = given;
}

void replace(std::int64_t& value, std::int32_t given) {
    if (given != 0) value = given;
}

void replace(const char* name, std::string& value, const himar_solver& given) {
    static constexpr const char* names[] = {"", "ddpm", "ddim", "dpm++"};
    const int number = number_of(given);
    if (number < 0 || number >= static_cast<int>(std::size(names)))
        throw InputError(std::string(name) + " is " + std::to_string(number) +
                         "; it must be HIMAR_SOLVER_DDPM, HIMAR_SOLVER_DDIM, HIMAR_SOLVER_DPMPP or HIMAR_SOLVER_DEFAULT.");
    if (number != HIMAR_SOLVER_DEFAULT) value = names[number];
}

Sampling read_sampling(const himar_generate_params& params, const Manifest& manifest) {
    Sampling sampling = choose_setting(params.sampling, manifest);
    replace(sampling.low_guidance, params.guidance);
    replace(sampling.high_guidance, params.guidance);
    replace(sampling.low_guidance, params.low_guidance);
    replace(sampling.high_guidance, params.high_guidance);
    replace(sampling.temperature, params.temperature);
    replace(sampling.low_steps, params.low_steps);
    replace(sampling.high_steps, params.high_steps);
    replace(sampling.low_diffusion_steps, params.low_diffusion_steps);
    replace(sampling.high_diffusion_steps, params.high_diffusion_steps);
    const int schedule = number_of(params.guidance_schedule);
    if (schedule == HIMAR_GUIDANCE_LINEAR)
        sampling.guidance_schedule = "linear";
    else if (schedule == HIMAR_GUIDANCE_CONSTANT)
        sampling.guidance_schedule = "constant";
    else if (schedule != HIMAR_GUIDANCE_DEFAULT)
        throw InputError("guidance_schedule is " + std::to_string(schedule) +
                         "; it must be HIMAR_GUIDANCE_LINEAR, HIMAR_GUIDANCE_CONSTANT or HIMAR_GUIDANCE_DEFAULT.");
    replace("low_solver", sampling.low_solver, params.low_solver);
    replace("high_solver", sampling.high_solver, params.high_solver);
    sampling.check();
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
