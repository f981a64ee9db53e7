// The way home: tokens to latents, latents to pixels, one download at the end; and the preview on the way.
#include <algorithm>

#include "error.h"
#include "families/hi_mar/lane.h"

namespace himar::core::hi_mar {
namespace {

constexpr std::int64_t kDecoderSegment = 4;  // after two components of each phase
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

// Unless `decoder` can decode `batch` latents of s by s to images of `side` pixels a side: InputError when there is none
// of either, EngineError when its engine takes no latents of this size or the images are too many.
void check_preview(const Engine* decoder, std::int64_t s, std::int64_t batch, std::int64_t side) {
    if (s == 0) throw InputError("this model has a single scale, so there is no low-resolution preview.");
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

// A few images at a time.
void HiMarLane::queue_decoding() {
    const Buffers& b = *buffers_;
    const std::int64_t C = model_.channels, grid = model_.grid(), side = model_.img_size;
    for (std::int64_t first = 0; first < batch_; first += kDecodeBatch) {
        const std::int64_t count = std::min(kDecodeBatch, batch_ - first);
        replays_.run({kDecoderSegment, first, count, 0, 0, 0}, [&] {
            run_engine(*networks_.decoder(), {{"latent", b.latents + first * C * grid * grid, {count, C, grid, grid}},
                                              {"image", b.image, {count, 3, side, side}}});
            queue().launch(launches::pack(b.pixels + first * side * side * 3, b.image, b.fault, word(count),
                                          word(side * side)));
        });
    }
}

void HiMarLane::fetch_results(std::uint8_t* pixels) {
    check_fault();
    preview_latents_.resize(static_cast<std::size_t>(batch_ * model_.channels * model_.low_positions()));
    latents_.resize(static_cast<std::size_t>(batch_ * model_.channels * model_.high_positions()));
    if (!preview_latents_.empty())
        queue().download(preview_latents_.data(), buffers_->preview, preview_latents_.size() * sizeof(float));
    queue().download(latents_.data(), buffers_->latents, latents_.size() * sizeof(float));
    if (pixels != nullptr)
        queue().download(pixels, buffers_->pixels,
                         static_cast<std::size_t>(batch_ * model_.img_size * model_.img_size * 3));
}

// On a GPU this runs behind the step that is queued already: what it shows is the step before, whose latents are in the
// host's memory. It has a fault word and memory of its own, since what goes wrong here is not the run's.
PreviewPixels HiMarLane::preview() {
    const std::int64_t C = model_.channels, s = model_.cond_scale, side = s * model_.vae_stride;
    check_preview(networks_.decoder(), s, batch_, side);
    Engine& decoder = *networks_.decoder();
    queue().make_current();
    const std::int64_t together = std::min(batch_, kDecodeBatch);
    u32* fault = nullptr;
    float *latents = nullptr, *image = nullptr;
    u8* made = nullptr;
    const auto place_all = [&](void* block) {
        Layout layout(block);
        layout.take(fault, 1);
        layout.take(latents, batch_ * C * s * s);
        layout.take(image, together * 3 * side * side);
        layout.take(made, batch_ * side * side * 3);
        return layout.bytes();
    };
    if (const std::size_t bytes = place_all(nullptr); bytes > preview_bytes_) {
        if (preview_block_ != nullptr) queue().synchronize();
        preview_block_ = queue().allocate(bytes);
        preview_bytes_ = bytes;
    }
    place_all(preview_block_.get());
    queue().clear(fault, sizeof *fault);
    queue().upload(latents, reported_, static_cast<std::size_t>(batch_ * C * s * s) * sizeof(float));
    for (std::int64_t first = 0; first < batch_; first += kDecodeBatch) {
        const std::int64_t count = std::min(kDecodeBatch, batch_ - first);
        run_engine(decoder, {{"latent", latents + first * C * s * s, {count, C, s, s}},
                             {"image", image, {count, 3, side, side}}});
        queue().launch(launches::pack(made + first * side * side * 3, image, fault, word(count), word(side * side)));
    }
    u32 found = 0;
    queue().download(&found, fault, sizeof found);
    if (found != 0)
        throw EngineError("vae_decoder returned values that are not finite in a preview; if the bundle is in half "
                          "precision, build vae_decoder with fp32 or bf16.");
    preview_pixels_.resize(static_cast<std::size_t>(batch_ * side * side * 3));
    queue().download(preview_pixels_.data(), made, preview_pixels_.size());
    return {preview_pixels_.data(), side};
}

}  // namespace himar::core::hi_mar
