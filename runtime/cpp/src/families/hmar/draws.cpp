#include "families/hmar/draws.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "error.h"
#include "text.h"

namespace himar::core::hmar {
namespace {

using Function = int (*)(const himar_code_request* request, float* values, void* user);

std::string where(const Forward& forward) {
    return " for scale " + std::to_string(forward.scale) + ", step " + std::to_string(forward.step);
}

std::vector<float> asked(Function function, void* user, const char* what, const Forward& forward,
                         const std::vector<u32>& images, std::int64_t cells, std::int64_t codes, std::int64_t each) {
    himar_code_request request{};
    request.struct_size = sizeof request;
    request.scale = static_cast<std::int32_t>(forward.scale);
    request.step = static_cast<std::int32_t>(forward.step);
    request.images = images.data();
    request.batch = static_cast<std::int64_t>(images.size());
    request.cells = cells;
    request.codes = codes;
    std::vector<float> values(images.size() * static_cast<std::size_t>(cells * each), NAN);
    if (function(&request, values.data(), user) == 0)
        throw InputError(std::string("the draws gave no ") + what + where(forward) +
                         "; they are of another model or of other settings.");
    return values;
}

}  // namespace

std::vector<float> given_uniforms(const himar_draws& draws, const Forward& forward, const std::vector<u32>& images,
                                  std::int64_t cells, std::int64_t codes) {
    std::vector<float> values = asked(draws.uniforms, draws.user, "uniforms", forward, images, cells, codes, 1);
    const auto wrong = std::find_if(values.begin(), values.end(), [](float value) { return !(value >= 0 && value < 1); });
    if (wrong != values.end())
        throw InputError("the draws gave the uniform " + shown(static_cast<double>(*wrong)) + where(forward) +
                         "; it must be in [0, 1).");
    return values;
}

std::vector<float> given_gumbel(const himar_draws& draws, const Forward& forward, const std::vector<u32>& images,
                                std::int64_t cells, std::int64_t codes) {
    std::vector<float> values = asked(draws.gumbel, draws.user, "Gumbel noise", forward, images, cells, codes, codes);
    if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }))
        throw InputError("the draws gave Gumbel noise that is not finite" + where(forward) + ".");
    return values;
}

}  // namespace himar::core::hmar
