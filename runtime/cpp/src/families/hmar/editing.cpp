// What an edit keeps and draws, before its loop begins.
#include "families/hmar/editing.h"

#include <algorithm>

#include "families/hmar/faults.h"
#include "families/hmar/lane.h"

namespace himar::core::hmar {
namespace {

u32 word(std::int64_t value) { return static_cast<u32>(value); }

}  // namespace

std::vector<std::uint8_t> edit_cells(const std::uint8_t* mask, std::int64_t image_side, const Scales& scales) {
    const std::vector<std::uint8_t> latent = touched_cells(mask, image_side, scales.side());
    std::vector<std::uint8_t> all;
    all.reserve(static_cast<std::size_t>(scales.tokens()));
    for (const std::int64_t side : scales.sides) {
        std::vector<std::uint8_t> cells = touched_cells(latent.data(), scales.side(), side);
        if (2 * side > scales.side()) cells = widened(cells, side);
        all.insert(all.end(), cells.begin(), cells.end());
    }
    return all;
}

// Upload which cells are drawn, and how many of each image's a masked step redraws.
void HmarLane::upload_edited(const Edit& edit, const std::vector<Forward>& forwards) {
    const Scales& scales = model_.scales;
    std::vector<u8> edited(static_cast<std::size_t>(batch_ * scales.tokens()));
    std::vector<std::vector<std::int64_t>> counts(scales.count());  // of each scale, of each image
    for (std::int64_t image = 0; image < batch_; ++image) {
        const std::vector<std::uint8_t> cells = edit_cells(edit.mask(image), edit.side, scales);
        for (std::size_t scale = 0; scale < scales.count(); ++scale) {
            const std::int64_t T = scales.cells(scale);
            const auto from = cells.begin() + scales.start(scale);
            std::copy(from, from + T, edited.begin() + batch_ * scales.start(scale) + image * T);
            counts[scale].push_back(std::count(from, from + T, 1));
        }
    }
    queue().upload(buffers_->edited, edited.data(), edited.size());
    redrawn_.clear();
    for (const Forward& forward : forwards)
        for (const std::int64_t count : counts[forward.scale])
            redrawn_.push_back(word(edited_share(forward.remasked, model_.scales.cells(forward.scale), count)));
    queue().upload(buffers_->redrawn, redrawn_.data(), redrawn_.size() * sizeof(u32));
}

// Leaves the images' latents where the loop's grows, which then starts from 0 again.
void HmarLane::queue_encoder(const Edit& edit) {
    const Buffers& b = *buffers_;
    const std::int64_t H = model_.scales.side(), P = model_.image_side(), Cv = model_.latent_channels;
    const std::int64_t latent = Cv * H * H, image = 3 * P * P;
    Engine& encoder = *networks_.need(kEncoder);
    std::vector<float> values(static_cast<std::size_t>(std::min(batch_, kDecodeBatch) * image));
    for (std::int64_t first = 0; first < batch_; first += kDecodeBatch) {
        const std::int64_t count = std::min(kDecodeBatch, batch_ - first);
        for (std::int64_t place = 0; place < count; ++place) edit.write_values(first + place, values.data() + place * image);
        queue().upload(b.image, values.data(), static_cast<std::size_t>(count * image) * sizeof(float));
        // An image's latent may begin where engines take no tensor.
        run_engine(encoder, {{"image", b.image, {count, 3, P, P}}, {"latent", b.grid, {count, Cv, H, H}}});
        queue().launch(launches::check_finite(b.grid, static_cast<u64>(count * latent), b.state, b.fault, kEncoderFault));
        queue().copy(b.latent + first * latent, b.grid, static_cast<std::size_t>(count * latent) * sizeof(float));
    }
    if (queue().runs_at_once()) check_fault();
}

// Leaves the images' codes where the loop's are, of which it draws those that are edited: each scale takes what the coarser
// ones left of the latent (docs/hmar-model.md §3).
void HmarLane::queue_encoding(const Edit& edit) {
    const Buffers& b = *buffers_;
    const std::int64_t H = model_.scales.side(), Cv = model_.latent_channels;
    queue_encoder(edit);
    for (std::size_t scale = 0; scale < model_.scales.count(); ++scale) {
        const std::int64_t p = model_.scales.sides[scale];
        queue().launch(launches::scale_words(b.words, b.latent, nullptr, nullptr, constants_->down[scale], word(batch_), 1,
                                             word(p), word(H), word(Cv)));
        queue().launch(launches::nearest_codes(codes_of(scale), b.words, constants_->embedding, word(batch_ * p * p),
                                               word(model_.vocab), word(Cv)));
        queue_contribution(scale, codes_of(scale), constants_->embedding, nullptr);
        queue().launch(launches::subtract(b.latent, b.own, word(batch_ * Cv * H * H)));
    }
}

}  // namespace himar::core::hmar
