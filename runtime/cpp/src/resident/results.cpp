// The way home: tokens to latents, latents to pixels, and one download at the end; and the preview on the way.
#include <algorithm>

#include "../error.h"
#include "../fault.h"
#include "../preview.h"
#include "lane.h"

namespace himar::core {
namespace {

u32 word(std::int64_t value) { return static_cast<u32>(value); }

}  // namespace

void ResidentLane::queue_latents() {
    const float scale = static_cast<float>(model_.vae_scale);
    ResidentDevice& device = *networks_.lane;
    device.launch(launches::latents(buffers_.low_latents, buffers_.low_tokens, scale, word(batch_),
                                    word(model_.low_positions()), word(model_.channels)));
    device.launch(launches::latents(buffers_.latents, buffers_.tokens, scale, word(batch_), word(model_.high_positions()),
                                    word(model_.channels)));
}

// A few images at a time.
void ResidentLane::queue_decoding() {
    const std::int64_t C = model_.channels, grid = model_.grid(), side = model_.img_size;
    for (std::int64_t first = 0; first < batch_; first += kDecodeBatch) {
        const std::int64_t count = std::min(kDecodeBatch, batch_ - first);
        replays_.run({static_cast<std::int64_t>(Segment::kVaeDecoder), first, count, 0, 0, 0}, [&] {
            networks_.vae_decoder->run({{"latent", buffers_.latents + first * C * grid * grid, {count, C, grid, grid}},
                                        {"image", buffers_.image, {count, 3, side, side}}});
            networks_.lane->launch(launches::pack(tables_.pixels + first * side * side * 3, buffers_.image,
                                                  buffers_.fault, word(count), word(side * side)));
        });
    }
}

void ResidentLane::fetch_results(u8* pixels) {
    ResidentDevice& device = *networks_.lane;
    u32 fault = 0;
    device.download(&fault, buffers_.fault, sizeof fault);
    check_fault(fault);
    low_latents_.resize(static_cast<std::size_t>(batch_ * model_.channels * model_.low_positions()));
    latents_.resize(static_cast<std::size_t>(batch_ * model_.channels * model_.high_positions()));
    device.download(low_latents_.data(), buffers_.low_latents, low_latents_.size() * sizeof(float));
    device.download(latents_.data(), buffers_.latents, latents_.size() * sizeof(float));
    if (pixels != nullptr)
        device.download(pixels, tables_.pixels,
                        static_cast<std::size_t>(batch_ * model_.img_size * model_.img_size * 3));
}

// Runs behind the step that is queued already: what it says of is the step before, whose latents are in the host's
// memory. It has a fault word and memory of its own, since what goes wrong here is not the run's.
PreviewPixels ResidentLane::preview() {
    const std::int64_t C = model_.channels, s = model_.cond_scale, side = s * model_.vae_stride;
    check_preview(networks_.vae_decoder.get(), s, batch_, side);
    ResidentDevice& device = *networks_.lane;
    device.make_current();
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
        if (preview_block_ != nullptr) device.synchronize();
        preview_block_ = device.allocate(bytes);
        preview_bytes_ = bytes;
    }
    place_all(preview_block_.get());
    device.clear(fault, sizeof *fault);
    device.upload(latents, reported_, static_cast<std::size_t>(batch_ * C * s * s) * sizeof(float));
    for (std::int64_t first = 0; first < batch_; first += kDecodeBatch) {
        const std::int64_t count = std::min(kDecodeBatch, batch_ - first);
        networks_.vae_decoder->run({{"latent", latents + first * C * s * s, {count, C, s, s}},
                                    {"image", image, {count, 3, side, side}}});
        device.launch(launches::pack(made + first * side * side * 3, image, fault, word(count), word(side * side)));
    }
    u32 found = 0;
    device.download(&found, fault, sizeof found);
    if (found != 0) throw preview_fault();
    preview_pixels_.resize(static_cast<std::size_t>(batch_ * side * side * 3));
    device.download(preview_pixels_.data(), made, preview_pixels_.size());
    return {preview_pixels_.data(), side};
}

}  // namespace himar::core
