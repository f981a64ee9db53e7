#include "noise.h"

namespace himar::core {

NoiseSource::NoiseSource(ResidentDevice& device, const Buffers& buffers, const Tables& tables, const ModelInfo& model,
                         const Chunk& chunk)
    : device_(device), buffers_(buffers), tables_(tables), model_(model) {
    if (chunk.draws != nullptr) given_.emplace(*chunk.draws);
    for (std::size_t i = 0; i < chunk.labels.size(); ++i) images_.push_back(static_cast<u32>(chunk.first_index + i));
    device_.upload(buffers_.images, images_.data(), images_.size() * sizeof(u32));
}

void NoiseSource::order(himar_phase phase, std::int64_t n, u32* ranks) {
    const auto batch = static_cast<std::int64_t>(images_.size());
    if (!given_) {
        device_.launch(launches::ranks(ranks, buffers_.images, buffers_.state, static_cast<u32>(phase),
                                       static_cast<u32>(batch), static_cast<u32>(n)));
        return;
    }
    std::vector<u32> places(static_cast<std::size_t>(batch * n));
    given_->ranks(places.data(), phase, images_.data(), batch, n);
    device_.make_current();  // the draws are a user's, who may use another GPU
    device_.upload(ranks, places.data(), places.size() * sizeof(u32));
    if (phase == HIMAR_PHASE_LOW) low_ranks_ = std::move(places);
}

void NoiseSource::initial(const Step& step) { send(step, GivenDraws::kInitialNoise); }

void NoiseSource::at(const Step& step, std::int64_t k) {
    if (k > 0) send(step, k);
}

void NoiseSource::send(const Step& step, std::int64_t k) {
    if (!given_) return;
    const std::vector<u32>& positions = positions_of(step);
    const auto batch = static_cast<std::int64_t>(images_.size()), C = model_.channels;
    const auto r = static_cast<std::int64_t>(positions.size()) / batch;
    const float* const drawn = given_->noise(step, k, images_.data(), positions.data(), batch, r, C);
    device_.make_current();  // as in `order`
    device_.upload(tables_.noise, drawn, static_cast<std::size_t>(batch * r * C) * sizeof(float));
}

// (B, r): the positions that a low step reveals, ascending as index_lists writes them; all of phase high.
const std::vector<u32>& NoiseSource::positions_of(const Step& step) {
    positions_.clear();
    const bool is_low = step.phase == HIMAR_PHASE_LOW;
    const std::int64_t n = is_low ? model_.low_positions() : model_.high_positions();
    for (std::size_t image = 0; image < images_.size(); ++image)
        for (std::int64_t position = 0; position < n; ++position) {
            if (is_low) {
                const std::int64_t rank = low_ranks_[image * static_cast<std::size_t>(n) + static_cast<std::size_t>(position)];
                if (rank >= step.masked || rank < step.masked - step.revealed) continue;
            }
            positions_.push_back(static_cast<u32>(position));
        }
    return positions_;
}

}  // namespace himar::core
