#include "tables.h"

#include <algorithm>

namespace himar::core {
namespace {

constexpr std::int64_t kMostChain = 1000, kColumns = 8;  // of a chain and of its table

}  // namespace

Tables::Tables(const ModelInfo& model, std::int64_t batch, const Allocate& allocate) {
    block_ = allocate(place_all(nullptr, model, batch));
    place_all(block_.get(), model, batch);
}

// Returns the bytes that all arrays need; without a block they are only counted.
std::size_t Tables::place_all(void* block, const ModelInfo& model, std::int64_t batch) {
    const std::int64_t S = model.low_positions(), N = model.high_positions();
    Layout layout(block);
    layout.take(steps, S + N);  // a step reveals at least one position
    layout.take(low_timesteps, kMostChain);
    layout.take(high_timesteps, kMostChain);
    layout.take(low_chain, kMostChain * kColumns);
    layout.take(high_chain, kMostChain * kColumns);
    layout.take(noise, batch * std::max(S, N) * model.channels);
    layout.take(pixels, batch * model.img_size * model.img_size * 3);
    return layout.bytes();
}

}  // namespace himar::core
