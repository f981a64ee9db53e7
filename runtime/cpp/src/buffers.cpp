#include "buffers.h"

#include <algorithm>
#include <new>
#include <string>

#include "error.h"

namespace himar::core {
namespace {

constexpr std::int64_t kMostItems = 0x7FFFFFFF;

void check_items(std::int64_t items) {
    if (items > kMostItems)
        throw InputError("a launch over " + std::to_string(items) + " items was asked; at most " +
                         std::to_string(kMostItems) + " fit: build the bundle with a smaller --max-batch.");
}

}  // namespace

Buffers::Buffers(const ModelInfo& model, std::int64_t batch, Widths widths, const Allocate& allocate) : batch_(batch) {
    const std::int64_t positions = std::max(model.low_positions(), model.high_positions());
    check_items(batch * positions * std::max<std::int64_t>(model.channels, 3));
    check_items(batch * model.img_size * model.img_size);
    block_ = allocate(place_all(nullptr, model, widths));
    place_all(block_.get(), model, widths);
}

// Returns the bytes that all arrays need; without a block they are only counted.
std::size_t Buffers::place_all(void* block, const ModelInfo& model, Widths widths) {
    const std::int64_t B = batch_, S = model.low_positions(), N = model.high_positions(), C = model.channels;
    const std::int64_t D = model.width, length = model.buffer + S + N;
    Layout layout(block);
    layout.take(state, 1);
    layout.take(fault, 1);
    layout.take(images, B);
    layout.take(class_row, 2 * B);
    layout.take(timestep, 1);
    layout.take(low_ranks, B * S);
    layout.take(high_ranks, B * N);
    layout.take(revealed, B * std::max(S, N));
    layout.take(visible, 2 * B * length);
    layout.take(sources, 2 * B * length);
    layout.take(low_tokens, 2 * B * S * C);
    layout.take(pivots, 2 * B * S * D);
    layout.take(tokens, 2 * B * N * C);
    layout.take(engine_pivots, 2 * B * S * D);
    layout.take(low_condition, 2 * B * S * widths.mlp);
    layout.take(head_condition, 2 * B * S * widths.mlp);
    layout.take(mlp_x, 2 * B * S * C);
    layout.take(mlp_prediction, 2 * B * S * 2 * C);
    layout.take(high_condition, 2 * B * N * widths.dit);
    layout.take(initial, B * N * C);
    layout.take(dit_x, 2 * B * N * C);
    layout.take(dit_prediction, 2 * B * N * C);
    layout.take(start, B * std::max(S, N) * C);
    layout.take(low_latents, B * C * S);
    layout.take(latents, B * C * N);
    layout.take(image, std::min(B, kDecodeBatch) * 3 * model.img_size * model.img_size);
    return layout.bytes();
}

std::shared_ptr<void> allocate_host(std::size_t bytes) {
    constexpr std::align_val_t alignment{Layout::kAlignment};
    return {::operator new(bytes, alignment), [](void* block) { ::operator delete(block, alignment); }};
}

}  // namespace himar::core
