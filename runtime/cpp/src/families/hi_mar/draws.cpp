#include "families/hi_mar/draws.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "error.h"
#include "families/hi_mar/editing.h"
#include "queue/host/queue.h"

namespace himar::core::hi_mar {

std::vector<u32> GivenDraws::ranks(std::size_t stage, const PhaseInfo& phase, const std::vector<u32>& images) {
    const std::int64_t n = phase.positions();
    std::vector<std::int64_t> order(images.size() * static_cast<std::size_t>(n), -1);
    himar_order_request request{};
    request.struct_size = sizeof request;
    request.stage = static_cast<std::int32_t>(stage);
    request.stage_name = phase.name();
    request.images = images.data();
    request.batch = static_cast<std::int64_t>(images.size());
    request.positions = n;
    if (draws_.order(&request, order.data(), draws_.user) == 0)
        throw InputError(std::string("the draws gave no order of the ") + std::to_string(n) + " " + phase.name() +
                         " positions; they are of another model or hold other images.");
    std::vector<u32> ranks(order.size());
    std::vector<bool> seen;
    for (std::size_t image = 0; image < images.size(); ++image) {
        const std::size_t first = image * static_cast<std::size_t>(n);
        seen.assign(static_cast<std::size_t>(n), false);
        for (std::int64_t place = 0; place < n; ++place) {
            const std::int64_t position = order[first + static_cast<std::size_t>(place)];
            if (position < 0 || position >= n || seen[static_cast<std::size_t>(position)])
                throw InputError("the draws' order of image " + std::to_string(images[image]) + " in phase " +
                                 phase.name() + " has " + std::to_string(position) + " at place " +
                                 std::to_string(place) + "; every number from 0 to " + std::to_string(n - 1) +
                                 " must stand in it once.");
            seen[static_cast<std::size_t>(position)] = true;
            ranks[first + static_cast<std::size_t>(position)] = static_cast<u32>(place);
        }
    }
    return ranks;
}

const std::vector<float>& GivenDraws::noise(const Step& step, std::int64_t k, const std::vector<u32>& images,
                                            const std::vector<u32>& positions, std::int64_t channels) {
    const auto where = [&] {
        return std::string(" for phase ") + step.phase_name() + ", step " + std::to_string(step.index) +
               (k == kInitial ? ", its initial noise" : ", k = " + std::to_string(k));
    };
    noise_.resize(positions.size() * static_cast<std::size_t>(channels));
    himar_noise_request request{};
    request.struct_size = sizeof request;
    request.stage = static_cast<std::int32_t>(step.stage);
    request.step = static_cast<std::int32_t>(step.index);
    request.stage_name = step.phase_name();
    request.k = static_cast<std::int32_t>(k);
    request.images = images.data();
    request.positions = positions.data();
    request.batch = static_cast<std::int64_t>(images.size());
    request.position_count = static_cast<std::int64_t>(positions.size() / images.size());
    request.channels = channels;
    if (draws_.noise(&request, noise_.data(), draws_.user) == 0)
        throw InputError("the draws gave no noise" + where() + "; they are of another model or of other settings.");
    if (!std::all_of(noise_.begin(), noise_.end(), [](float value) { return std::isfinite(value); }))
        throw InputError("the draws gave noise that is not finite" + where() + ".");
    return noise_;
}

NoiseSource::NoiseSource(Queue& queue, const Buffers& buffers, std::int64_t channels, const Chunk& chunk)
    : queue_(queue), buffers_(buffers), channels_(channels), origins_(chunk.origins) {
    if (chunk.draws != nullptr) given_.emplace(*chunk.draws);
    for (const ImageOrigin& origin : chunk.origins) images_.push_back(origin.index);
    queue_.upload(buffers_.origins, chunk.origins.data(), chunk.origins.size() * sizeof(ImageOrigin));
}

void NoiseSource::order(std::size_t stage, const PhaseInfo& phase, const std::vector<std::uint8_t>* drawn) {
    u32* const ranks = buffers_.phases[stage].ranks;
    const auto count = static_cast<u32>(images_.size()), n = static_cast<u32>(phase.positions());
    if (!given_ && drawn == nullptr) {
        queue_.launch(launches::ranks(ranks, buffers_.origins, phase.code(), count, n));
        return;
    }
    std::vector<u32>& own = ranks_[stage];
    if (given_) {
        own = given_->ranks(stage, phase, images_);
        queue_.make_current();  // the draws are a user's, who may use another GPU
    } else {
        own.resize(std::size_t{count} * n);
        run_on_host(launches::ranks(own.data(), origins_.data(), phase.code(), count, n));
    }
    if (drawn != nullptr) move_drawn_first(own, *drawn, phase.positions());
    queue_.upload(ranks, own.data(), own.size() * sizeof(u32));
}

void NoiseSource::prepare(const Step& step, const PhaseInfo& phase, std::int64_t k) {
    if (!given_ || k == 0) return;
    const std::vector<float>& drawn = given_->noise(step, k, images_, positions_of(step, phase), channels_);
    queue_.make_current();  // as in `order`
    queue_.upload(buffers_.noise, drawn.data(), drawn.size() * sizeof(float));
}

// (B, r): for an MLP head the positions that the step reveals, ascending as index_lists writes them; for a DiT head all.
const std::vector<u32>& NoiseSource::positions_of(const Step& step, const PhaseInfo& phase) {
    positions_.clear();
    const auto n = static_cast<std::size_t>(phase.positions());
    const std::vector<u32>& ranks = ranks_[step.stage];
    for (std::size_t place = 0; place < ranks.size(); ++place) {
        const std::int64_t rank = ranks[place];
        if (phase.kind == HeadKind::kDit || (rank < step.masked && rank >= step.masked - step.revealed))
            positions_.push_back(static_cast<u32>(place % n));
    }
    return positions_;
}

}  // namespace himar::core::hi_mar
