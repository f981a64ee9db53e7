// The preview: low latents of the chunk under way, decoded while its steps go on.
#include <algorithm>

#include "lane.h"
#include "preview.h"

namespace himar::core {

// What goes wrong here is not the run's: the preview has its own fault word and memory.
PreviewPixels Lane::preview() {
    const std::int64_t C = model_.channels, s = model_.cond_scale, side = s * model_.vae_stride;
    const std::int64_t most = std::min(batch_, kDecodeBatch);
    check_preview(networks_.vae_decoder.get(), s, batch_, side);
    Engine& decoder = *networks_.vae_decoder;
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
    if (fault != 0) throw preview_fault();
    return {preview_pixels_.data(), side};
}

}  // namespace himar::core
