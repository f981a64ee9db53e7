// What an edit keeps and draws, before its loop begins.
#include "families/hi_mar/editing.h"

#include <algorithm>
#include <cmath>

#include "families/hi_mar/lane.h"
#include "families/resize.h"

namespace himar::core::hi_mar {
namespace {

std::vector<std::uint8_t> drawn_of(const Edit& edit, std::int64_t place, std::int64_t side) {
    std::vector<std::uint8_t> cells = touched_cells(edit.mask(place), edit.side, side);
    for (std::int64_t ring = 0; ring < std::min(edit.dilation, side); ++ring) cells = widened(cells, side);
    return cells;
}

}  // namespace

std::vector<std::uint8_t> drawn_positions(const Edit& edit, std::int64_t side) {
    std::vector<std::uint8_t> all;
    for (std::int64_t place = 0; place < edit.count; ++place) {
        const std::vector<std::uint8_t> cells = drawn_of(edit, place, side);
        all.insert(all.end(), cells.begin(), cells.end());
    }
    return all;
}

DrawnCounts drawn_counts(const Edit& edit, std::int64_t place, const HiMarModel& model) {
    const auto count = [&](std::int64_t side) {
        const std::vector<std::uint8_t> cells = drawn_of(edit, place, side);
        return static_cast<std::int64_t>(std::count(cells.begin(), cells.end(), 1));
    };
    return {count(model.cond_scale), count(model.grid())};
}

void move_drawn_first(std::vector<u32>& ranks, const std::vector<std::uint8_t>& drawn, std::int64_t positions) {
    const auto n = static_cast<std::size_t>(positions);
    std::vector<std::size_t> order(n);
    for (std::size_t first = 0; first < ranks.size(); first += n) {
        for (std::size_t position = 0; position < n; ++position) order[ranks[first + position]] = position;
        u32 place = 0;
        for (const std::uint8_t wanted : {1, 0})
            for (const std::size_t position : order)
                if (drawn[first + position] == wanted) ranks[first + position] = place++;
    }
}

std::vector<i64> guide_rows(const std::vector<std::uint8_t>& drawn, std::int64_t positions, std::int64_t halves) {
    const auto pivots = static_cast<i64>(drawn.size()) * halves;
    std::vector<i64> rows(static_cast<std::size_t>(pivots));
    for (std::size_t place = 0; place < rows.size(); ++place)
        rows[place] = drawn[place % drawn.size()] != 0 ? static_cast<i64>(place) : pivots + static_cast<i64>(place) % positions;
    return rows;
}

std::vector<float> known_tokens(const std::vector<float>& latents, const std::uint8_t* drawn, std::int64_t count,
                                std::int64_t positions, std::int64_t channels, double scale) {
    std::vector<float> tokens;
    tokens.reserve(static_cast<std::size_t>(count * positions * channels));
    for (std::int64_t image = 0; image < count; ++image)
        for (std::int64_t position = 0; position < positions; ++position)
            for (std::int64_t channel = 0; channel < channels; ++channel) {
                const auto place = static_cast<std::size_t>((image * channels + channel) * positions + position);
                const bool is_drawn = drawn[image * positions + position] != 0;
                tokens.push_back(is_drawn ? 0 : latents[place] * static_cast<float>(scale));
            }
    return tokens;
}

// Upload what the chunk's edit keeps: tokens at known positions of each phase, and what phase high sees at low ones. The
// images are encoded for that, and waited for.
void HiMarLane::keep(const Edit& edit) {
    const Buffers& b = *buffers_;
    drawn_.clear();
    for (std::size_t number = 0; number < stages_.size(); ++number) {
        const PhaseInfo& phase = stages_[number].phase;
        drawn_.push_back(drawn_positions(edit, phase.side));
        const std::vector<float> latents = encoded(edit, phase);
        std::vector<float> tokens = known_tokens(latents, drawn_[number].data(), batch_, phase.positions(), model_.channels,
                                                 model_.vae_scale);
        const std::vector<float> half = tokens;
        tokens.insert(tokens.end(), half.begin(), half.end());
        queue().upload(b.phases[number].tokens, tokens.data(), tokens.size() * sizeof(float));
    }
    const std::vector<std::uint8_t>& low = drawn_.front();
    sees_guides_ = model_.has_edit_transformer() && std::count(low.begin(), low.end(), 0) > 0;
    if (!sees_guides_) return;
    edit_transformer_ = networks_.need(kEditTransformer);
    for (const std::int64_t halves : {1, 2}) {
        const std::vector<i64> rows = guide_rows(low, model_.low_positions(), halves);
        queue().upload(b.guides[halves - 1], rows.data(), rows.size() * sizeof(i64));
    }
}

// The latents (B, C, side, side) of an edit's images, their holes filled, in the size of a phase. EngineError when the
// encoder gives values that are not finite.
std::vector<float> HiMarLane::encoded(const Edit& edit, const PhaseInfo& phase) {
    const Buffers& b = *buffers_;
    const std::int64_t side = phase.side * model_.vae_stride, C = model_.channels;
    const std::int64_t image = 3 * side * side, latent = C * phase.positions();
    float* const out = phase.is_low ? b.preview : b.latents;
    Engine& encoder = *networks_.need(kEncoder);
    std::vector<float> latents(static_cast<std::size_t>(batch_ * latent)), values;
    for (std::int64_t first = 0; first < batch_; first += kDecodeBatch) {
        const std::int64_t count = std::min(kDecodeBatch, batch_ - first);
        values.resize(static_cast<std::size_t>(count * image));
        for (std::int64_t place = 0; place < count; ++place) {
            if (phase.is_low)
                write_resized(edit.filled(first + place).data(), edit.side, side, values.data() + place * image);
            else
                edit.write_values(first + place, values.data() + place * image);
        }
        queue().upload(b.image, values.data(), values.size() * sizeof(float));
        run_engine(encoder, {{"image", b.image, {count, 3, side, side}}, {"latent", out, {count, C, phase.side, phase.side}}});
        queue().download(latents.data() + first * latent, out, static_cast<std::size_t>(count * latent) * sizeof(float));
    }
    if (!std::all_of(latents.begin(), latents.end(), [](float value) { return std::isfinite(value); }))
        refuse_values(kEncoder, "");
    return latents;
}

}  // namespace himar::core::hi_mar
