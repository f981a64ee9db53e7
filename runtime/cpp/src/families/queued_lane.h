// What the families' loops over a queue share: running and leaving, telling of steps, decoding.
//
// On the host everything has run when a call returns. On a GPU the host queues and, with a step callback, stays one step
// ahead of what it tells of, so that the device always has work (docs/resident-loop.md).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engines/networks.h"
#include "families/family.h"
#include "queue/replays.h"

namespace himar::core {

// Latents decoded together: the decoder's activations are large, and a few images already fill a device.
constexpr std::int64_t kDecodeBatch = 8;

// Items of a launch: more than the kernels' 32-bit numbers hold are an InputError, that says to build smaller.
void check_items(std::int64_t items);

// Where latents (B, C, s, s) are, and where their images (B, side, side, 3) go.
struct Decoding {
    float* latents;
    float* image;  // (min(B, kDecodeBatch), 3, side, side)
    u8* pixels;
    u32* fault;
    std::int64_t batch, channels, grid, side;  // B, C, s and pixels a side
};

class QueuedLane : public Lane {
public:
    bool run(const Chunk& chunk, const Settings& settings, const ShouldContinue& should_continue,
             std::uint8_t* pixels) final;
    const std::vector<float>& latents() const override { return latents_; }
    const std::vector<float>& low_latents() const override { return low_latents_; }
    const std::vector<std::int64_t>& codes() const override { return codes_; }
    bool has_decoder() const override { return networks_.decoder() != nullptr; }
    double engine_seconds() const override { return engine_seconds_; }

protected:
    explicit QueuedLane(Networks networks);

    // The family's loop: leaves its results where the accessors look; false when cancelled.
    virtual bool generate(const Chunk& chunk, const Settings& settings, std::uint8_t* pixels) = 0;

    Queue& queue() const { return *networks_.queue; }
    void run_engine(Engine& engine, Places places);

    // Wait until the device is idle, before what it works on is freed: a destructor's first act, on whatever thread.
    void settle() noexcept;

    bool is_asked() const { return should_continue_ != nullptr; }  // whether somebody wants to know of steps

    // Tell of a step that is queued, whose preview is on its way to `preview` in the host's memory, and the latents of its
    // images so far to `so_far`, or of the one before; then of the last. False cancels.
    bool report(const StepInfo& step, const float* preview, const float* so_far);
    bool report_last();

    // Queue the decoding, a few images at a time, in segments of `replays` if there are any.
    void queue_decoding(const Decoding& what, Replays* replays, std::int64_t segment);

    // Of the step that `should_continue` is looking at, in the host's memory.
    const float* reported_preview() const { return reported_preview_; }
    const float* reported_so_far() const { return reported_so_far_; }

    // Decode `images` of one of the two, (B, C, grid, grid), from the `first` on. It has a fault word and memory of its own, since what goes wrong here is
    // not the run's; on a GPU it runs behind the step that is queued already.
    PreviewPixels decode_reported(const float* latents, std::int64_t first, std::int64_t images, std::int64_t channels,
                                  std::int64_t grid, std::int64_t side);

    // EngineError for a component whose values are not finite; `where` is led by a space.
    [[noreturn]] static void refuse_values(const std::string& component, const std::string& where);

    Networks networks_;
    std::vector<float> latents_, low_latents_;
    std::vector<std::int64_t> codes_;

private:
    // A step whose results are on their way while the next one is queued.
    struct Behind {
        StepInfo step;
        std::unique_ptr<Mark> mark;
        const float *preview, *so_far;
    };

    bool tell(Behind& done);

    // Of the run under way.
    const ShouldContinue* should_continue_ = nullptr;
    std::optional<Behind> behind_;
    const float *reported_preview_ = nullptr, *reported_so_far_ = nullptr;

    std::shared_ptr<void> preview_block_;
    std::size_t preview_bytes_ = 0;
    std::vector<std::uint8_t> preview_pixels_;
    double engine_seconds_ = 0;
};

}  // namespace himar::core
