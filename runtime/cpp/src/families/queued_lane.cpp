#include "families/queued_lane.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "error.h"

namespace himar::core {
namespace {

constexpr std::int64_t kMostItems = 0x7FFFFFFF;

}  // namespace

void check_items(std::int64_t items) {
    if (items > kMostItems)
        throw InputError("a launch over " + std::to_string(items) + " items was asked for; at most " +
                         std::to_string(kMostItems) + " fit: build the bundle with a smaller --max-batch.");
}

QueuedLane::QueuedLane(Networks networks) : networks_(std::move(networks)) {
    if (!queue().runs_at_once()) engine_seconds_ = std::numeric_limits<double>::quiet_NaN();
}

bool QueuedLane::run(const Chunk& chunk, const Settings& settings, const ShouldContinue& should_continue,
                     std::uint8_t* pixels) {
    should_continue_ = should_continue ? &should_continue : nullptr;
    behind_.reset();
    bool finished = false;
    try {
        queue().make_current();
        finished = generate(chunk, settings, pixels);
    } catch (...) {
        try {
            queue().make_current();  // a user's function may have left another GPU behind
            queue().synchronize();
        } catch (const EngineError&) {  // the first error is the one to tell
        }
        throw;
    }
    // The caller may let go of everything: nothing queued may still use it then.
    if (!finished) queue().synchronize();
    return finished;
}

void QueuedLane::run_engine(Engine& engine, Places places) {
    if (!queue().runs_at_once()) return engine.run(places);
    const auto start = std::chrono::steady_clock::now();
    engine.run(places);
    engine_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void QueuedLane::settle() noexcept {
    try {
        queue().make_current();
        queue().synchronize();
    } catch (const EngineError&) {  // there is nobody to tell
    }
}

bool QueuedLane::report(const StepInfo& step, const float* preview, const float* so_far) {
    std::optional<Behind> due(Behind{step, queue().mark(), preview, so_far});
    if (!queue().runs_at_once()) std::swap(due, behind_);
    return !due || tell(*due);
}

bool QueuedLane::report_last() { return !behind_ || tell(*behind_); }

bool QueuedLane::tell(Behind& done) {
    done.mark->wait();
    reported_preview_ = done.preview;
    reported_so_far_ = done.so_far;
    const bool answer = (*should_continue_)(done.step, done.preview);
    queue().make_current();  // the callback is a user's, who may use another GPU
    return answer;
}

void QueuedLane::queue_decoding(const Decoding& what, Replays* replays, std::int64_t segment) {
    const std::int64_t C = what.channels, s = what.grid, side = what.side;
    for (std::int64_t first = 0; first < what.batch; first += kDecodeBatch) {
        const std::int64_t count = std::min(kDecodeBatch, what.batch - first);
        const auto enqueue = [&] {
            run_engine(*networks_.decoder(), {{"latent", what.latents + first * C * s * s, {count, C, s, s}},
                                              {"image", what.image, {count, 3, side, side}}});
            queue().launch(launches::pack(what.pixels + first * side * side * 3, what.image, what.fault,
                                          static_cast<u32>(count), static_cast<u32>(side * side)));
        };
        if (replays != nullptr)
            replays->run({segment, first, count}, enqueue);
        else
            enqueue();
    }
}

PreviewPixels QueuedLane::decode_reported(const float* latents, std::int64_t first, std::int64_t images,
                                          std::int64_t channels, std::int64_t grid, std::int64_t side) {
    queue().make_current();
    Decoding what{nullptr, nullptr, nullptr, nullptr, images, channels, grid, side};
    const std::int64_t one = channels * grid * grid, values = images * one, pixels = images * side * side * 3;
    const auto place_all = [&](void* block) {
        Layout layout(block);
        layout.take(what.fault, 1);
        layout.take(what.latents, values);
        layout.take(what.image, std::min(images, kDecodeBatch) * 3 * side * side);
        layout.take(what.pixels, pixels);
        return layout.bytes();
    };
    if (const std::size_t bytes = place_all(nullptr); bytes > preview_bytes_) {
        if (preview_block_ != nullptr) queue().synchronize();
        preview_block_ = queue().allocate(bytes);
        preview_bytes_ = bytes;
    }
    place_all(preview_block_.get());
    queue().clear(what.fault, sizeof *what.fault);
    queue().upload(what.latents, latents + first * one, static_cast<std::size_t>(values) * sizeof(float));
    queue_decoding(what, nullptr, 0);
    u32 found = 0;
    queue().download(&found, what.fault, sizeof found);
    if (found != 0) refuse_values("vae_decoder", " in a preview");
    preview_pixels_.resize(static_cast<std::size_t>(pixels));
    queue().download(preview_pixels_.data(), what.pixels, preview_pixels_.size());
    return {preview_pixels_.data(), side};
}

void QueuedLane::refuse_values(const std::string& component, const std::string& where) {
    throw EngineError(component + " returned values that are not finite" + where +
                      "; if the bundle is in half precision, build " + component + " with fp32 or bf16.");
}

}  // namespace himar::core
