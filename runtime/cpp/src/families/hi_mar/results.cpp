// The way home: tokens to latents, latents to pixels, one download at the end; and the preview on the way.
#include "error.h"
#include "families/hi_mar/lane.h"

namespace himar::core::hi_mar {
namespace {

constexpr std::int64_t kMostItems = 0x7FFFFFFF;

u32 word(std::int64_t value) { return static_cast<u32>(value); }

// Whether a decoder takes latents of `side` by `side`: engines may be built for one size only.
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

// Unless `decoder` can decode `batch` latents of s by s to images of `side` pixels a side: InputError when there is none,
// EngineError when its engine takes no latents of this size or the images are too many.
void check_preview(const Engine* decoder, std::int64_t s, std::int64_t batch, std::int64_t side) {
    if (decoder == nullptr)
        throw InputError("this bundle has no VAE decoder, so there is no preview in pixels; use preview_latents instead.");
    if (!takes(decoder->spec(), s))
        throw EngineError("this bundle's vae_decoder does not take latents of " + std::to_string(s) + " by " +
                          std::to_string(s) + ", so there is no preview in pixels; use preview_latents, or build the "
                          "bundle again.");
    if (batch * 3 * side * side > kMostItems)
        throw EngineError("a preview of " + std::to_string(batch) + " images of " + std::to_string(side) + " by " +
                          std::to_string(side) + " pixels is too large; use preview_latents, or ask for fewer images.");
}

}  // namespace

void HiMarLane::queue_latents(float* latents, const PhaseInfo& phase, std::size_t stage) {
    queue().launch(launches::latents(latents, buffers_->phases[stage].tokens, static_cast<float>(model_.vae_scale),
                                     word(batch_), word(phase.positions()), word(model_.channels)));
}

void HiMarLane::fetch_results(std::uint8_t* pixels) {
    check_fault();
    low_latents_.resize(static_cast<std::size_t>(batch_ * model_.channels * model_.low_positions()));
    latents_.resize(static_cast<std::size_t>(batch_ * model_.channels * model_.high_positions()));
    if (!low_latents_.empty())
        queue().download(low_latents_.data(), buffers_->preview, low_latents_.size() * sizeof(float));
    queue().download(latents_.data(), buffers_->latents, latents_.size() * sizeof(float));
    if (pixels != nullptr)
        queue().download(pixels, buffers_->pixels,
                         static_cast<std::size_t>(batch_ * model_.img_size * model_.img_size * 3));
}

PreviewPixels HiMarLane::preview(std::int64_t first, std::int64_t images) {
    const std::int64_t s = model_.cond_scale, side = s * model_.vae_stride;
    if (s == 0) throw InputError("this model has a single scale, so there is no low-resolution preview.");
    check_preview(networks_.decoder(), s, images, side);
    return decode_reported(reported_preview(), first, images, model_.channels, s, side);
}

PreviewPixels HiMarLane::so_far(std::int64_t first, std::int64_t images) {
    if (reported_so_far() == nullptr) return preview(first, images);  // a step of phase low
    check_preview(networks_.decoder(), model_.grid(), images, model_.img_size);
    return decode_reported(reported_so_far(), first, images, model_.channels, model_.grid(), model_.img_size);
}

}  // namespace himar::core::hi_mar
