#include "families/hmar/buffers.h"

#include <algorithm>
#include <numeric>

#include "bundle/bundle.h"
#include "error.h"
#include "families/queued_lane.h"

namespace himar::core::hmar {
namespace {

void upload(Queue& queue, float* to, const std::vector<float>& values) {
    queue.upload(to, values.data(), values.size() * sizeof(float));
}

}  // namespace

Constants::Constants(const HmarModel& model, const Bundle& bundle, Queue& queue) {
    queue.make_current();
    up.resize(model.scales.count());
    down.resize(model.scales.count());
    block_ = queue.allocate(place_all(nullptr, model));
    place_all(block_.get(), model);
    upload(queue, embedding, bundle.floats(model.embedding));
    upload(queue, weights, bundle.floats(model.weights));
    upload(queue, biases, bundle.floats(model.biases));
    for (std::size_t scale = 0; scale < model.scales.count(); ++scale) {
        upload(queue, up[scale], model.scales.up(scale));
        upload(queue, down[scale], model.scales.down(scale));
    }
    queue.synchronize();
}

std::size_t Constants::place_all(void* block, const HmarModel& model) {
    Layout layout(block);
    layout.take(embedding, model.embedding.count);
    layout.take(weights, model.weights.count);
    layout.take(biases, model.biases.count);
    for (std::size_t scale = 0; scale < model.scales.count(); ++scale) {
        const std::int64_t values = model.scales.side() * model.scales.sides[scale];
        layout.take(up[scale], values);
        layout.take(down[scale], values);
    }
    return layout.bytes();
}

Buffers::Buffers(const HmarModel& model, std::int64_t batch, Queue& queue) : batch_(batch) {
    const std::int64_t T = model.scales.cells(model.scales.count() - 1);
    block_ = queue.allocate(place_all(nullptr, model));
    place_all(block_.get(), model);
    std::vector<i64> numbers(static_cast<std::size_t>(std::max(model.scales.tokens(), batch * T)));
    std::iota(numbers.begin(), numbers.end(), i64{0});
    queue.upload(places, numbers.data(), numbers.size() * sizeof(i64));
    queue.clear(zeros, static_cast<std::size_t>(2 * batch * std::max(model.width, T)) * sizeof(float));
    queue.clear(state, sizeof(StepState));
}

std::size_t Buffers::place_all(void* block, const HmarModel& model) {
    const std::int64_t B = batch_, C = model.width, Cv = model.latent_channels, H = model.scales.side(), side = model.image_side();
    const std::int64_t T = model.scales.cells(model.scales.count() - 1), L = model.scales.tokens();
    check_items(B * T * std::max<std::int64_t>(Cv, 3));
    check_items(B * side * side);
    Layout layout(block);
    conditions = {};
    layout.take(conditions.cond, 2 * B * C);
    if (model.base() > 0) layout.take(conditions.trunk, 2 * B * model.base() * 6 * C);
    if (model.tail > 0) layout.take(conditions.tail, 2 * B * model.tail * 6 * C);
    if (model.tail > 0 && model.masked) layout.take(conditions.masked, 2 * B * model.tail * 6 * C);
    layout.take(conditions.tail_head, 2 * B * 2 * C);
    if (model.masked) layout.take(conditions.masked_head, 2 * B * 2 * C);
    layout.take(fault, 1);
    layout.take(origins, B);
    layout.take(state, 1);
    layout.take(class_row, 2 * B);
    layout.take(places, std::max(L, B * T));
    layout.take(codes, B * L);
    layout.take(zeros, 2 * B * std::max(C, T));
    layout.take(words, 2 * B * T * Cv);
    layout.take(shown, 2 * B * T);
    layout.take(masked[0], B * T);
    layout.take(masked[1], B * T);
    layout.take(edited, B * L);
    // A forward fixes at least one cell, or is a scale's first.
    layout.take(redrawn, B * (L + static_cast<std::int64_t>(model.scales.count())));
    layout.take(confidence, B * T);
    layout.take(uniforms, B * T);
    layout.take(x, 2 * B * T * C);
    layout.take(logits, 2 * B * T * model.vocab);
    layout.take(grid, B * Cv * H * H);
    layout.take(own, B * Cv * H * H);
    layout.take(latent, B * Cv * H * H);
    layout.take(image, std::min(B, kDecodeBatch) * 3 * side * side);
    layout.take(pixels, B * side * side * 3);
    return layout.bytes();
}

SmoothBuffers::SmoothBuffers(const HmarModel& model, std::int64_t images, Queue& queue) : batch(images) {
    const std::int64_t sites = images * model.scales.cells(model.scales.count() - 1);
    const auto place_all = [&](void* memory) {
        Layout layout(memory);
        layout.take(mixed, sites * model.latent_channels);
        layout.take(gumbel, sites * model.vocab);
        return layout.bytes();
    };
    block = queue.allocate(place_all(nullptr));
    place_all(block.get());
}

PastBuffers::PastBuffers(const HmarModel& model, std::int64_t blocks, std::int64_t images, Queue& queue)
    : batch(images) {
    block = queue.allocate(place_all(nullptr, model, blocks));
    place_all(block.get(), model, blocks);
}

std::size_t PastBuffers::place_all(void* memory, const HmarModel& model, std::int64_t blocks) {
    const std::size_t last = model.scales.count() - 1;
    const std::int64_t cell = 2 * batch * blocks * model.width, most = model.scales.start(last);  // that are looked back to
    constexpr std::int64_t room = std::int64_t{1} << 50;  // values: more have no room anywhere, and their bytes would overflow
    if (cell > room / std::max(most, model.scales.cells(last)))
        throw InputError("all scales in view of " + std::to_string(batch) + " images at once have no room in any memory; build "
                         "the bundle with a smaller --max-batch.");
    Layout layout(memory);
    for (auto& set : past)
        for (float*& values : set) layout.take(values, cell * most);
    for (float*& values : own) layout.take(values, cell * model.scales.cells(last));
    return layout.bytes();
}

}  // namespace himar::core::hmar
