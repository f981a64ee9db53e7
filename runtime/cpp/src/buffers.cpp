#include "buffers.h"

#include <algorithm>
#include <new>
#include <string>

#include "error.h"

namespace himar::core {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::int64_t kMostItems = 0x7FFFFFFF;

void check_items(std::int64_t items) {
    if (items > kMostItems)
        throw InputError("a launch over " + std::to_string(items) + " items was asked; at most " +
                         std::to_string(kMostItems) + " fit: build the bundle with a smaller --max-batch.");
}

}  // namespace

void Buffers::Free::operator()(void* block) const { ::operator delete(block, std::align_val_t{kAlignment}); }

Buffers::Buffers(const ModelInfo& model, std::int64_t batch, Widths widths) : batch_(batch) {
    const std::int64_t positions = std::max(model.low_positions(), model.high_positions());
    check_items(batch * positions * std::max<std::int64_t>(model.channels, 3));
    check_items(batch * model.img_size * model.img_size);
    place_all(model, widths);  // counts
    block_.reset(::operator new(end_, std::align_val_t{kAlignment}));
    place_all(model, widths);
}

// Without a block only the end is counted.
template <class T>
void Buffers::take(T*& pointer, std::int64_t count) {
    pointer = block_ == nullptr ? nullptr : reinterpret_cast<T*>(static_cast<char*>(block_.get()) + end_);
    end_ += (static_cast<std::size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
}

void Buffers::place_all(const ModelInfo& model, Widths widths) {
    const std::int64_t B = batch_, S = model.low_positions(), N = model.high_positions(), C = model.channels;
    const std::int64_t D = model.width, length = model.buffer + S + N;
    end_ = 0;
    take(state, 1);
    take(fault, 1);
    take(images, B);
    take(class_row, 2 * B);
    take(timestep, 1);
    take(low_ranks, B * S);
    take(high_ranks, B * N);
    take(revealed, B * std::max(S, N));
    take(visible, 2 * B * length);
    take(sources, 2 * B * length);
    take(low_tokens, 2 * B * S * C);
    take(pivots, 2 * B * S * D);
    take(tokens, 2 * B * N * C);
    take(engine_pivots, 2 * B * S * D);
    take(low_condition, 2 * B * S * widths.mlp);
    take(head_condition, 2 * B * S * widths.mlp);
    take(mlp_x, 2 * B * S * C);
    take(mlp_prediction, 2 * B * S * 2 * C);
    take(high_condition, 2 * B * N * widths.dit);
    take(initial, B * N * C);
    take(dit_x, 2 * B * N * C);
    take(dit_prediction, 2 * B * N * C);
    take(low_latents, B * C * S);
    take(latents, B * C * N);
    take(image, std::min(B, kDecodeBatch) * 3 * model.img_size * model.img_size);
}

}  // namespace himar::core
