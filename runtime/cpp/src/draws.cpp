#include "draws.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "error.h"

namespace himar::core {
namespace {

const char* name_of(himar_phase phase) { return phase == HIMAR_PHASE_LOW ? "low" : "high"; }

}  // namespace

GivenDraws::GivenDraws(const himar_draws& draws) : draws_(draws) {
    if (draws.struct_size != sizeof draws)
        throw InputError("himar_draws.struct_size is " + std::to_string(draws.struct_size) + "; it must be " +
                         std::to_string(sizeof draws) + ": set it to sizeof(himar_draws).");
    if (draws.order == nullptr || draws.noise == nullptr)
        throw InputError(std::string("himar_draws.") + (draws.order == nullptr ? "order" : "noise") +
                         " is NULL; give both functions, or no draws.");
}

void GivenDraws::ranks(u32* ranks, himar_phase phase, const u32* images, std::int64_t batch, std::int64_t n) {
    order_.assign(static_cast<std::size_t>(batch * n), -1);
    if (draws_.order(phase, images, batch, n, order_.data(), draws_.user) == 0)
        throw InputError(std::string("the draws gave no order of the ") + std::to_string(n) + " " + name_of(phase) +
                         " positions; they are of another model or hold other images.");
    std::vector<bool> seen;
    for (std::int64_t image = 0; image < batch; ++image) {
        seen.assign(static_cast<std::size_t>(n), false);
        for (std::int64_t place = 0; place < n; ++place) {
            const std::int64_t position = order_[static_cast<std::size_t>(image * n + place)];
            if (position < 0 || position >= n || seen[static_cast<std::size_t>(position)])
                throw InputError("the draws' order of image " + std::to_string(images[image]) + " in phase " +
                                 name_of(phase) + " has " + std::to_string(position) + " at place " +
                                 std::to_string(place) + "; every number from 0 to " + std::to_string(n - 1) +
                                 " must stand in it once.");
            seen[static_cast<std::size_t>(position)] = true;
            ranks[image * n + position] = static_cast<u32>(place);
        }
    }
}

const float* GivenDraws::noise(const Step& step, std::int64_t k, const u32* images, const u32* positions,
                               std::int64_t batch, std::int64_t r, std::int64_t channels) {
    const auto where = [&] {
        return std::string(" for phase ") + name_of(step.phase) + ", step " + std::to_string(step.index) +
               (k == kInitialNoise ? ", its initial noise" : ", k = " + std::to_string(k));
    };
    noise_.resize(static_cast<std::size_t>(batch * r * channels));
    himar_noise_request request{};
    request.struct_size = sizeof request;
    request.phase = step.phase;
    request.step = static_cast<std::int32_t>(step.index);
    request.k = static_cast<std::int32_t>(k);
    request.images = images;
    request.positions = positions;
    request.batch = batch;
    request.position_count = r;
    request.channels = channels;
    if (draws_.noise(&request, noise_.data(), draws_.user) == 0)
        throw InputError("the draws gave no noise" + where() + "; they are of another model or of other settings.");
    if (!std::all_of(noise_.begin(), noise_.end(), [](float value) { return std::isfinite(value); }))
        throw InputError("the draws gave noise that is not finite" + where() + ".");
    return noise_.data();
}

}  // namespace himar::core
