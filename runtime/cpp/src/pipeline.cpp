#include "pipeline.h"

#include <chrono>

#include "error.h"
#include "lane.h"
#include "resident/lane.h"

namespace himar::core {
namespace {

template <class T>
void append(std::vector<T>& all, const T* first, std::int64_t count) {
    all.insert(all.end(), first, first + count);
}

// Sets and clears the thread that generates.
class Generating {
public:
    explicit Generating(std::atomic<std::thread::id>& thread) : thread_(thread) { thread_ = std::this_thread::get_id(); }
    ~Generating() { thread_ = std::thread::id(); }
    Generating(const Generating&) = delete;
    Generating& operator=(const Generating&) = delete;

private:
    std::atomic<std::thread::id>& thread_;
};

}  // namespace

std::vector<std::size_t> chunk_sizes(std::size_t images, std::size_t most) {
    const std::size_t parts = (images + most - 1) / most;
    std::vector<std::size_t> sizes;
    for (std::size_t part = 0; part < parts; ++part) sizes.push_back(images / parts + (part < images % parts ? 1 : 0));
    return sizes;
}

Pipeline::Pipeline(std::shared_ptr<const Bundle> bundle, std::unique_ptr<Runner> runner)
    : bundle_(std::move(bundle)), runner_(std::move(runner)) {}

std::unique_ptr<Pipeline> Pipeline::load(const std::filesystem::path& path, const LoadRequest& request) {
    check_request(request);
    auto bundle = std::make_shared<const Bundle>(Bundle::open(path));
    const Manifest& manifest = bundle->manifest();
    Networks networks = load_networks(*bundle, request);
    std::unique_ptr<Runner> runner;
    if (networks.lane == nullptr)
        runner = std::make_unique<Lane>(std::move(networks), manifest.model);
    else
        runner = std::make_unique<ResidentLane>(std::move(networks), manifest.model, manifest.max_batch);
    return std::unique_ptr<Pipeline>(new Pipeline(std::move(bundle), std::move(runner)));
}

std::unique_ptr<Pipeline> Pipeline::clone() const {
    return std::unique_ptr<Pipeline>(new Pipeline(bundle_, runner_->clone()));
}

Result Pipeline::generate(const Request& request, const OnStep& on_step) {
    if (generates_here())
        throw InputError("generate was called from its own step callback; call it on a clone instead.");
    const std::lock_guard<std::mutex> lock(one_at_a_time_);
    const Generating here(generating_);
    const auto start = std::chrono::steady_clock::now();
    const double engines_before = runner_->engine_seconds();
    const ModelInfo& model = bundle_->manifest().model;
    const std::int64_t C = model.channels, S = model.low_positions(), N = model.high_positions();
    const std::int64_t pixels_of_one = model.img_size * model.img_size * 3;
    const auto sizes = chunk_sizes(request.labels.size(), static_cast<std::size_t>(bundle_->manifest().max_batch));

    Result result;
    result.model = model;
    result.has_images = runner_->has_decoder();
    himar_progress progress{};
    progress.struct_size = sizeof progress;
    progress.total = static_cast<std::int64_t>(sizes.size()) * (request.sampling.low_steps + request.sampling.high_steps);
    Preview preview = [&] { return runner_->preview(); };
    progress.preview = &preview;
    Runner::GoOn go_on;
    if (on_step)
        go_on = [&](const Step& step, const float* low_latents) {
            progress.phase = step.phase;
            progress.step = static_cast<std::int32_t>(step.index);
            ++progress.done;
            progress.low_latents = low_latents;
            return on_step(progress);
        };
    std::size_t first = 0;
    for (const std::size_t size : sizes) {
        const Chunk chunk{{request.labels.begin() + static_cast<std::ptrdiff_t>(first),
                           request.labels.begin() + static_cast<std::ptrdiff_t>(first + size)},
                          request.first_index + first,
                          request.seed,
                          request.draws};
        const auto B = static_cast<std::int64_t>(size);
        progress.images = B;
        const std::int64_t low_shape[4] = {B, C, model.cond_scale, model.cond_scale};
        std::copy(low_shape, low_shape + 4, progress.low_shape);
        std::vector<std::uint8_t> pixels(result.has_images ? static_cast<std::size_t>(B * pixels_of_one) : 0);
        if (!runner_->run(chunk, request.sampling, go_on, result.has_images ? pixels.data() : nullptr)) {
            result.cancelled = true;
            break;
        }
        append(result.images, pixels.data(), static_cast<std::int64_t>(pixels.size()));
        append(result.latents, runner_->latents(), B * C * N);
        append(result.low_latents, runner_->low_latents(), B * C * S);
        result.labels.insert(result.labels.end(), chunk.labels.begin(), chunk.labels.end());
        first += size;
    }
    for (std::size_t place = 0; place < result.labels.size(); ++place)
        result.recipes.push_back(recipe(request, place, bundle_->id()));
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    result.engine_seconds = runner_->engine_seconds() - engines_before;
    return result;
}

}  // namespace himar::core
