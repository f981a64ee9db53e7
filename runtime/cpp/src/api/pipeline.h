// A bundle's engines, ready to generate: chunks a request, joins what the lane gives.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "api/params.h"
#include "bundle/bundle.h"
#include "families/family.h"

namespace himar::core {

struct Result {
    std::vector<std::uint8_t> images;  // (B, H, W, 3), RGB; empty when the bundle has no VAE decoder
    std::vector<float> latents;        // (B, C, h, w), VAE scale removed
    std::vector<float> low_latents;    // (B, C, s, s), VAE scale removed; empty for a family that has none
    std::vector<std::int64_t> codes;   // (B, L); empty for a family that has none
    std::vector<std::int64_t> labels;  // (B) of the finished images
    std::vector<std::size_t> truncated;  // places of the request's prompts that lost their end
    std::vector<std::string> recipes;  // (B), JSON
    ModelFacts model{};
    bool has_images = false;
    bool cancelled = false;
    double seconds = 0, engine_seconds = 0;
    std::vector<double> stage_seconds;  // of each stage, then of decoding; empty where nobody was told of steps

    // The result of some of the images alone; the seconds are those of all.
    Result part(std::size_t first, std::size_t images_of_it) const;
};

// What himar_progress.internal points to: how the images that the step tells of are decoded.
struct StepPixels {
    // Of `images` of the chunk from the `first` on.
    using Decode = std::function<PreviewPixels(std::int64_t first, std::int64_t images)>;

    Decode preview, so_far;
    std::int64_t first = 0;        // of the chunk, that the step tells of
    std::deque<StepPixels> parts;  // of the same step, as long as it is told of
};

// What the lanes of a bundle are going to run at once, for which there must be room.
struct Load {
    std::int64_t lanes = 1;
    std::int64_t batch = 0;  // images of each; 0 takes the most for which there is room
};

class Pipeline {
public:
    // Open and check the bundle and load its engines, where there is room for them; without `work` for an image at once.
    // BundleError, EngineError, InputError.
    static std::unique_ptr<Pipeline> load(const std::filesystem::path& path, const LoadRequest& request,
                                          const std::optional<Load>& work = {});

    // Another lane for another thread: shared weights, own buffers. Any thread may call it, also during `generate`.
    // EngineError also where there is no room for its runs.
    std::unique_ptr<Pipeline> clone() const;

    std::int64_t batch() const { return origin_->batch; }  // images of a run for which room was asked

    // Generate, or edit; concurrent calls wait for each other. InputError when called from its own callback.
    Result generate(const Request& request, const OnStep& on_step);

    const Bundle& bundle() const { return *bundle_; }
    Prompts& prompts() const { return *prompts_; }  // shared by the lanes

    // True in the thread that is inside `generate` of this pipeline, that is in its callback.
    bool generates_here() const { return generating_.load() == std::this_thread::get_id(); }

private:
    // How all lanes were loaded.
    struct Origin {
        LoadRequest request;
        std::int64_t batch;
        std::atomic<std::int64_t> expected;  // clones for which room was asked already
    };

    Pipeline(std::shared_ptr<const Bundle> bundle, std::shared_ptr<Prompts> prompts, std::unique_ptr<Lane> lane,
             std::shared_ptr<Origin> origin);

    std::shared_ptr<const Bundle> bundle_;
    std::shared_ptr<Prompts> prompts_;
    std::unique_ptr<Lane> lane_;
    std::shared_ptr<Origin> origin_;
    std::mutex one_at_a_time_;
    std::atomic<std::thread::id> generating_{};
};

// Sizes of chunks of at most `most` images, as equal as can be, the larger ones first.
std::vector<std::size_t> chunk_sizes(std::size_t images, std::size_t most);

}  // namespace himar::core
