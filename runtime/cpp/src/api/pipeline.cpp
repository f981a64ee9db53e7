#include "api/pipeline.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <utility>

#include "error.h"

namespace himar::core {
namespace {

template <class T>
void append(std::vector<T>& all, const std::vector<T>& more) {
    all.insert(all.end(), more.begin(), more.end());
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

Pipeline::Pipeline(std::shared_ptr<const Bundle> bundle, std::unique_ptr<Lane> lane)
    : bundle_(std::move(bundle)), lane_(std::move(lane)) {}

std::unique_ptr<Pipeline> Pipeline::load(const std::filesystem::path& path, const LoadRequest& request) {
    check_request(request);
    auto bundle = std::make_shared<const Bundle>(Bundle::open(path));
    const Manifest& manifest = bundle->manifest();
    auto lane = std::make_unique<Lane>(load_networks(*bundle, request), manifest.model, manifest.max_batch);
    return std::unique_ptr<Pipeline>(new Pipeline(std::move(bundle), std::move(lane)));
}

std::unique_ptr<Pipeline> Pipeline::clone() const {
    return std::unique_ptr<Pipeline>(new Pipeline(bundle_, lane_->clone()));
}

Result Pipeline::generate(const Request& request, const OnStep& on_step) {
    if (generates_here())
        throw InputError("generate was called from its own step callback; call it on a clone instead.");
    const std::lock_guard<std::mutex> lock(one_at_a_time_);
    const Generating here(generating_);
    const auto start = std::chrono::steady_clock::now();
    const double engines_before = lane_->engine_seconds();
    const ModelInfo& model = bundle_->manifest().model;
    const std::int64_t pixels_of_one = model.img_size * model.img_size * 3;
    const auto sizes = chunk_sizes(request.labels.size(), static_cast<std::size_t>(bundle_->manifest().max_batch));

    Result result;
    result.model = model;
    result.has_images = lane_->has_decoder();
    himar_progress progress{};
    progress.struct_size = sizeof progress;
    progress.total = static_cast<std::int64_t>(sizes.size()) *
                     (request.sampling.high_steps + (model.single_scale() ? 0 : request.sampling.low_steps));
    Preview preview = [&] { return lane_->preview(); };
    progress.internal = &preview;
    Lane::GoOn go_on;
    if (on_step)
        go_on = [&](const Step& step, const float* preview_latents) {
            progress.stage = static_cast<std::int32_t>(step.stage);
            progress.step = static_cast<std::int32_t>(step.index);
            progress.stage_name = step.phase_name();
            ++progress.done;
            progress.preview_latents = preview_latents;
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
        const std::int64_t shape[4] = {B, model.channels, model.cond_scale, model.cond_scale};
        std::copy(shape, shape + 4, progress.preview_shape);
        std::vector<std::uint8_t> pixels(result.has_images ? static_cast<std::size_t>(B * pixels_of_one) : 0);
        if (!lane_->run(chunk, request.sampling, go_on, result.has_images ? pixels.data() : nullptr)) {
            result.cancelled = true;
            break;
        }
        append(result.images, pixels);
        append(result.latents, lane_->latents());
        append(result.low_latents, lane_->low_latents());
        append(result.labels, chunk.labels);
        first += size;
    }
    for (std::size_t place = 0; place < result.labels.size(); ++place)
        result.recipes.push_back(recipe(request, place, bundle_->id()));
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    result.engine_seconds = lane_->engine_seconds() - engines_before;
    return result;
}

namespace {

void write(nlohmann::ordered_json& settings, const char* name, const std::string& value) {
    // Readers from before solvers take every recipe that they can follow, and refuse the others.
    if (value != "ddpm") settings[name] = value;
}

template <class Number>
void write(nlohmann::ordered_json& settings, const char* name, const Number& value) {
    settings[name] = value;
}

}  // namespace

std::string recipe(const Request& request, std::size_t place, const std::string& bundle_id) {
    nlohmann::ordered_json settings;
#define HIMAR_WRITE(name) write(settings, #name, request.sampling.name);
    HIMAR_HI_MAR_SETTINGS(HIMAR_WRITE)
#undef HIMAR_WRITE
    const nlohmann::ordered_json values = {
        {"seed", request.draws == nullptr ? nlohmann::ordered_json(request.seed) : nlohmann::ordered_json()},
        {"index", request.first_index + place},
        {"label", request.labels[place]},
        {"sampling", std::move(settings)},
        {"bundle", bundle_id},
        {"himar_version", HIMAR_VERSION_TEXT},
    };
    return values.dump();
}

}  // namespace himar::core
