#include "families/hi_mar/buffers.h"

#include <algorithm>

#include "families/hi_mar/chain.h"
#include "families/hi_mar/evaluations.h"
#include "families/queued_lane.h"

namespace himar::core::hi_mar {

Buffers::Buffers(const HiMarModel& model, std::int64_t batch, const std::vector<std::int64_t>& widths, Queue& queue)
    : batch_(batch) {
    block_ = queue.allocate(place_all(nullptr, model, widths));
    place_all(block_.get(), model, widths);
}

std::size_t Buffers::bytes(const HiMarModel& model, std::int64_t batch, const std::vector<std::int64_t>& widths) {
    return Buffers(batch).place_all(nullptr, model, widths);
}

// Returns the bytes that all arrays need; without a block they are only counted.
std::size_t Buffers::place_all(void* block, const HiMarModel& model, const std::vector<std::int64_t>& widths) {
    check_items(batch_ * std::max(model.low_positions(), model.high_positions()) * std::max<std::int64_t>(model.channels, 3));
    check_items(batch_ * model.img_size * model.img_size);
    check_items(batch_ * model.context_size());
    const std::int64_t B = batch_, S = model.low_positions(), N = model.high_positions(), C = model.channels;
    const std::int64_t pivots = model.pivots == Pivots::kCondition ? S * model.width : 0;
    const std::vector<PhaseInfo> infos = model.phases();
    std::int64_t most = 0, dit = 0, condition = 0, revealed = 0, predicted = 0;  // values of an image in the larger phase
    Layout layout(block);
    for (std::size_t stage = 0; stage < infos.size(); ++stage) {
        const std::int64_t n = infos[stage].positions();
        const bool is_mlp = infos[stage].kind == HeadKind::kMlp;
        most = std::max(most, n);
        dit = std::max(dit, is_mlp ? 0 : n);
        condition = std::max(condition, n * widths[stage]);
        revealed = std::max(revealed, is_mlp ? n * widths[stage] : 0);
        predicted = std::max(predicted, n * C * (is_mlp ? 2 : 1));
        layout.take(phases[stage].timesteps, Chain::kMost);
        layout.take(phases[stage].chain, Chain::kMost * Chain::kColumns);
        layout.take(phases[stage].ranks, B * n);
        layout.take(phases[stage].tokens, 2 * B * n * C);
    }
    layout.take(state, 1);
    layout.take(steps, S + N);  // a step reveals at least one position
    layout.take(fault, 1);
    layout.take(origins, B);
    layout.take(class_row, model.is_from_text() ? 0 : 2 * B);
    layout.take(tokens, model.is_from_text() ? B * model.buffer : 0);
    layout.take(context, 2 * B * model.context_size());
    layout.take(timestep, 1);
    layout.take(this->revealed, B * most);
    layout.take(visible, 2 * B * (model.buffer + S + N));
    layout.take(sources, 2 * B * (model.buffer + S + N));
    layout.take(noise, B * most * C);
    layout.take(this->pivots, 2 * B * pivots);
    layout.take(engine_pivots, 2 * B * pivots);
    for (const std::int64_t half : {0, 1}) layout.take(guides[half], model.has_edit_transformer() ? (half + 1) * B * S : 0);
    layout.take(this->condition, 2 * B * condition);
    layout.take(head_condition, 2 * B * revealed);
    layout.take(initial, B * dit * C);
    layout.take(start, B * most * C);
    layout.take(x, 2 * B * most * C);
    layout.take(prediction, 2 * B * predicted);
    layout.take(settled, 2 * B * predicted);
    layout.take(differences, (Evaluations::kMostOrder + 1) * B * predicted);
    layout.take(gap, B * most * C);
    layout.take(preview, B * C * S);
    layout.take(latents, B * C * N);
    const std::int64_t side = std::max(model.img_size, model.cond_scale * model.vae_stride);
    layout.take(image, std::min(B, kDecodeBatch) * 3 * side * side);
    layout.take(pixels, B * model.img_size * model.img_size * 3);
    return layout.bytes();
}

}  // namespace himar::core::hi_mar
