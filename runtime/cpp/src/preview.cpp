#include "preview.h"

#include <string>

namespace himar::core {
namespace {

constexpr std::int64_t kMostItems = 0x7FFFFFFF;

// Engines may be built for one size only.
bool takes(const ComponentSpec& decoder, std::int64_t side) {
    if (decoder.inputs.empty()) return false;
    const std::vector<Axis>& shape = decoder.inputs.front().shape;
    bool fits = shape.size() == 4;
    for (std::size_t axis = 2; fits && axis < 4; ++axis) {
        if (const auto* const size = std::get_if<std::int64_t>(&shape[axis])) {
            fits = *size == side;
            continue;
        }
        const auto range = decoder.profile.find(std::get<std::string>(shape[axis]));
        fits = range == decoder.profile.end() || (range->second[0] <= side && side <= range->second[2]);
    }
    return fits;
}

}  // namespace

void check_preview(const Engine* decoder, std::int64_t s, std::int64_t batch, std::int64_t side) {
    if (decoder == nullptr)
        throw InputError("this bundle has no VAE decoder, so there is no preview in pixels; use low_latents instead.");
    if (!takes(decoder->spec(), s))
        throw EngineError("this bundle's vae_decoder does not take latents of " + std::to_string(s) + " by " +
                          std::to_string(s) + ", so there is no preview in pixels; use low_latents, or build the "
                          "bundle again.");
    if (batch * 3 * side * side > kMostItems)
        throw EngineError("a preview of " + std::to_string(batch) + " images of " + std::to_string(side) + " by " +
                          std::to_string(side) + " pixels is too large; use low_latents, or ask for fewer images.");
}

EngineError preview_fault() {
    return EngineError("vae_decoder gave values that are not finite in a preview; if the bundle is in half precision, "
                       "build vae_decoder with fp32 or bf16.");
}

}  // namespace himar::core
