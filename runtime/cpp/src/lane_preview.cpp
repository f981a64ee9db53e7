// The preview: low latents of the chunk under way, decoded while its steps go on.
#include <algorithm>
#include <string>

#include "error.h"
#include "lane.h"

namespace himar::core {
namespace {

constexpr std::int64_t kMostItems = 0x7FFFFFFF;

// EngineError unless the decoder takes latents of `side` on a side: engines may be built for one size only.
void check_side(const ComponentSpec& decoder, std::int64_t side) {
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
    if (!fits)
        throw EngineError("this bundle's vae_decoder does not take latents of " + std::to_string(side) + " by " +
                          std::to_string(side) + ", so there is no preview in pixels; use low_latents, or build the "
                          "bundle again.");
}

}  // namespace

// What goes wrong here is not the run's: the preview has its own fault word and memory.
PreviewPixels Lane::preview() {
    if (!has_decoder())
        throw InputError("this bundle has no VAE decoder, so there is no preview in pixels; use low_latents instead.");
    Engine& decoder = *networks_.vae_decoder;
    const std::int64_t C = model_.channels, s = model_.cond_scale, side = s * model_.vae_stride;
    const std::int64_t most = std::min(batch_, kDecodeBatch);
    check_side(decoder.spec(), s);
    if (batch_ * 3 * side * side > kMostItems)
        throw EngineError("a preview of " + std::to_string(batch_) + " images of " + std::to_string(side) + " by " +
                          std::to_string(side) + " pixels is too large; use low_latents, or ask for fewer images.");
    const auto floats = static_cast<std::size_t>(most * 3 * side * side);
    if (preview_image_.size() < floats) {
        decoder.forget_places();
        preview_image_.resize(floats);
    }
    preview_pixels_.resize(static_cast<std::size_t>(batch_ * side * side * 3));
    u32 fault = 0;
    for (std::int64_t first = 0; first < batch_; first += kDecodeBatch) {
        const std::int64_t count = std::min(kDecodeBatch, batch_ - first);
        run_engine(decoder, {{"latent", buffers_->low_latents + first * C * s * s, {count, C, s, s}},
                             {"image", preview_image_.data(), {count, 3, side, side}}});
        kernels::pack(preview_pixels_.data() + first * side * side * 3, preview_image_.data(), &fault,
                      static_cast<u32>(count), static_cast<u32>(side * side));
    }
    if (fault != 0)
        throw EngineError("vae_decoder gave values that are not finite in a preview; if the bundle is in half "
                          "precision, build vae_decoder with fp32 or bf16.");
    return {preview_pixels_.data(), side};
}

}  // namespace himar::core
