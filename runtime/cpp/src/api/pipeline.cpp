#include "api/pipeline.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include "bundle/json_reader.h"
#include "bundle/sha256.h"
#include "engines/networks.h"
#include "error.h"
#include "memory/room.h"

namespace himar::core {
namespace {

template <class T>
void append(std::vector<T>& all, const std::vector<T>& more) {
    all.insert(all.end(), more.begin(), more.end());
}

// `count` of a number of images' values, which are all as many, from the `first` on.
template <class T>
std::vector<T> part_of(const std::vector<T>& values, std::size_t images, std::size_t first, std::size_t count) {
    if (values.empty()) return {};
    const std::size_t one = values.size() / images;
    const auto begin = values.begin() + static_cast<std::ptrdiff_t>(first * one);
    return {begin, begin + static_cast<std::ptrdiff_t>(count * one)};
}

// Adds up the time between events by what it was spent on.
struct Stopwatch {
    explicit Stopwatch(std::size_t kinds) : seconds(kinds) {}

    // Add the time since the last event to a kind.
    void lap(std::size_t kind) {
        const auto now = std::chrono::steady_clock::now();
        seconds[kind] += std::chrono::duration<double>(now - since).count();
        since = now;
    }

    // Leave out the time since the last event.
    void skip() { since = std::chrono::steady_clock::now(); }

    std::vector<double> seconds;
    std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();
};

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

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a context is hashed as it lies in memory");

// SHA-256 of the context of image `place`.
std::string context_hash(const Request& request, std::size_t place, const ModelFacts& facts) {
    const auto size = static_cast<std::size_t>(facts.context_length * facts.context_width);
    const char* const bytes = reinterpret_cast<const char*>(request.texts.from(place, facts).contexts);
    return sha256({bytes, size * sizeof(float)});
}

// In which order a request's images run, and how many of them together.
struct Parts {
    std::vector<std::int64_t> order;
    std::vector<std::size_t> sizes;
};

// Images of one kind run together, at most `most`, and as equally many as can be; kinds come in the order of their first
// image.
Parts parts_of(const std::vector<std::int64_t>& kinds, std::size_t most) {
    std::vector<std::vector<std::int64_t>> places;  // of each kind
    std::map<std::int64_t, std::size_t> found;
    for (std::size_t place = 0; place < kinds.size(); ++place) {
        const auto [entry, is_new] = found.emplace(kinds[place], places.size());
        if (is_new) places.emplace_back();
        places[entry->second].push_back(static_cast<std::int64_t>(place));
    }
    Parts parts;
    for (const std::vector<std::int64_t>& own : places) {
        append(parts.order, own);
        append(parts.sizes, chunk_sizes(own.size(), most));
    }
    return parts;
}

// An edit's request with its images in another order, for the lane: without prompts, whose tokens it has.
Request in_order(const Request& request, const std::vector<std::int64_t>& order) {
    Request ordered;
    ordered.settings = request.settings;
    ordered.draws = request.draws;
    ordered.edit = request.edit->some(order);
    for (const std::int64_t each : order) {
        const auto place = static_cast<std::size_t>(each);
        ordered.labels.push_back(request.labels[place]);
        ordered.origins.push_back(request.origins[place]);
        if (!request.texts.tokens.empty()) append(ordered.texts.tokens, part_of(request.texts.tokens, order.size(), place, 1));
    }
    return ordered;
}

// Put images' values, made in the order of these places, into the order of the places.
template <class T>
void sort_by_place(std::vector<T>& values, const std::vector<std::int64_t>& places) {
    std::vector<std::size_t> from(places.size());
    std::iota(from.begin(), from.end(), std::size_t{0});
    std::sort(from.begin(), from.end(), [&](std::size_t a, std::size_t b) { return places[a] < places[b]; });
    std::vector<T> sorted;
    sorted.reserve(values.size());
    for (const std::size_t place : from) append(sorted, part_of(values, places.size(), place, 1));
    values = std::move(sorted);
}

// How image `place` of a request was made, as the JSON that himar_runtime.Recipe writes.
std::string recipe(const Request& request, std::size_t place, const Bundle& bundle) {
    const Model& model = *bundle.manifest().model;
    Json values = {
        {"seed", request.draws ? Json() : Json(request.origins[place].seed)},
        {"index", request.origins[place].index},
        {"label", request.labels[place] == kNoClass ? Json() : Json(request.labels[place])},
        {"sampling", model.to_json(*request.settings)},
        {"bundle", bundle.id()},
        {"himar_version", HIMAR_VERSION_TEXT},
    };
    if (model.family != first_family()) values["family"] = model.family;  // as readers before families expect
    if (request.edit) {
        const auto image = static_cast<std::int64_t>(place);
        values["edit"] = {{"image", request.edit->image_hash(image)}, {"mask", request.edit->mask_hash(image)}};
        if (request.edit->dilation != 0) values["edit"]["dilation"] = request.edit->dilation;  // as earlier readers expect
        if (request.edit->feather != 0) values["edit"]["feather"] = request.edit->feather;
    }
    if (!request.texts.prompts.empty()) values["prompt"] = request.texts.prompts[place];
    if (request.texts.contexts != nullptr) values["context_sha256"] = context_hash(request, place, model.facts());
    return values.dump(-1, ' ', true);  // in ASCII, as PNG's text chunks need
}

}  // namespace

std::vector<std::size_t> chunk_sizes(std::size_t images, std::size_t most) {
    const std::size_t parts = (images + most - 1) / most;
    std::vector<std::size_t> sizes;
    for (std::size_t part = 0; part < parts; ++part) sizes.push_back(images / parts + (part < images % parts ? 1 : 0));
    return sizes;
}

Pipeline::Pipeline(std::shared_ptr<const Bundle> bundle, std::shared_ptr<Prompts> prompts, std::unique_ptr<Lane> lane,
                   std::shared_ptr<Origin> origin)
    : bundle_(std::move(bundle)), prompts_(std::move(prompts)), lane_(std::move(lane)), origin_(std::move(origin)) {}

std::unique_ptr<Pipeline> Pipeline::load(const std::filesystem::path& path, const LoadRequest& request,
                                         const std::optional<Load>& work) {
    auto bundle = std::make_shared<const Bundle>(open_bundle(path, request));
    const Manifest& manifest = bundle->manifest();
    if (work && work->batch > manifest.max_batch)
        throw InputError("batches of " + std::to_string(work->batch) + " images are asked for, but this bundle's engines take "
                         "at most " + std::to_string(manifest.max_batch) + "; give --max-batch " +
                         std::to_string(manifest.max_batch) + " or less, or build the bundle again with a larger one.");
    std::optional<std::int64_t> batch;
    if (work) batch = work->batch > 0 ? work->batch : fitting_batch(*bundle, request, work->lanes);
    const std::int64_t lanes = work ? work->lanes : 1;
    require_room(*bundle, request, batch, lanes);
    auto lane = manifest.model->make_lane(*bundle, load_networks(*bundle, request));
    auto prompts = std::make_shared<Prompts>(bundle);
    auto origin = std::shared_ptr<Origin>(new Origin{request, batch.value_or(1), {lanes - 1}});
    return std::unique_ptr<Pipeline>(
        new Pipeline(std::move(bundle), std::move(prompts), std::move(lane), std::move(origin)));
}

std::unique_ptr<Pipeline> Pipeline::clone() const {
    if (origin_->expected.fetch_sub(1) <= 0) require_room_for_lane(*bundle_, origin_->request);
    return std::unique_ptr<Pipeline>(new Pipeline(bundle_, prompts_, lane_->clone(), origin_));
}

Result Pipeline::generate(const Request& request, const OnStep& on_step) {
    if (generates_here())
        throw InputError("generate was called from its own step callback; call it on a clone instead.");
    const std::lock_guard<std::mutex> lock(one_at_a_time_);
    const Generating here(generating_);
    const auto start = std::chrono::steady_clock::now();
    const double engines_before = lane_->engine_seconds();
    const Model& model = *bundle_->manifest().model;
    const ModelFacts facts = model.facts();
    const std::int64_t pixels_of_one = facts.image_size * facts.image_size * 3;
    const std::size_t images = request.labels.size();
    const Parts parts = parts_of(request.edit ? model.edit_kinds(*request.edit) : std::vector<std::int64_t>(images),
                                 static_cast<std::size_t>(bundle_->manifest().max_batch));
    const bool is_ordered = std::is_sorted(parts.order.begin(), parts.order.end());
    const Request reordered = is_ordered ? Request() : in_order(request, parts.order);
    const Request& in_turn = is_ordered ? request : reordered;

    Result result;
    result.model = facts;
    result.has_images = lane_->has_decoder();
    result.truncated = request.texts.truncated;
    himar_progress progress{};
    progress.struct_size = sizeof progress;
    std::optional<Edit> edit;  // of the chunk
    const auto edit_of = [&](std::size_t first, std::size_t size) {
        if (in_turn.edit) edit = in_turn.edit->part(static_cast<std::int64_t>(first), static_cast<std::int64_t>(size));
        return edit ? &*edit : nullptr;
    };
    std::size_t first = 0;
    for (const std::size_t size : parts.sizes) {
        progress.total += model.steps(*request.settings, edit_of(first, size));
        first += size;
    }
    std::vector<std::uint8_t> pasted;
    const auto pasted_over = [&](PreviewPixels made, std::int64_t from, std::int64_t images) {
        if (!edit || made.side != edit->side) return made;
        pasted.assign(made.pixels, made.pixels + images * pixels_of_one);
        edit->part(from, images).paste(pasted.data());
        made.pixels = pasted.data();
        return made;
    };
    StepPixels step_pixels;
    step_pixels.preview = [&](std::int64_t from, std::int64_t images) {
        return pasted_over(lane_->preview(from, images), from, images);
    };
    step_pixels.so_far = [&](std::int64_t from, std::int64_t images) {
        return pasted_over(lane_->so_far(from, images), from, images);
    };
    progress.internal = &step_pixels;
    Stopwatch watch(on_step ? model.stages().size() + 1 : 0);
    Lane::ShouldContinue should_continue;
    if (on_step)
        should_continue = [&](const StepInfo& step, const float* preview_latents) {
            progress.stage = static_cast<std::int32_t>(step.stage);
            progress.step = static_cast<std::int32_t>(step.index);
            progress.stage_name = step.stage_name;
            progress.stage_steps = step.steps;
            ++progress.done;
            progress.preview_latents = preview_latents;
            watch.lap(step.stage);
            const bool answer = on_step(progress);
            watch.skip();
            step_pixels.parts.clear();
            return answer;
        };
    first = 0;
    for (const std::size_t size : parts.sizes) {
        const auto B = static_cast<std::int64_t>(size);
        const auto begin = static_cast<std::ptrdiff_t>(first), end = static_cast<std::ptrdiff_t>(first + size);
        const Chunk chunk{{in_turn.labels.begin() + begin, in_turn.labels.begin() + end},
                          {in_turn.origins.begin() + begin, in_turn.origins.begin() + end},
                          request.draws ? &*request.draws : nullptr,
                          edit_of(first, size),
                          in_turn.texts.from(first, facts)};
        progress.images = B;
        const std::int64_t shape[4] = {B, facts.channels, facts.preview_size, facts.preview_size};
        std::copy(shape, shape + 4, progress.preview_shape);
        std::vector<std::uint8_t> pixels(result.has_images ? static_cast<std::size_t>(B * pixels_of_one) : 0);
        if (!lane_->run(chunk, *request.settings, should_continue, result.has_images ? pixels.data() : nullptr)) {
            result.cancelled = true;
            break;
        }
        if (on_step) watch.lap(model.stages().size());
        if (edit && result.has_images) edit->paste(pixels.data());
        append(result.images, pixels);
        append(result.latents, lane_->latents());
        append(result.low_latents, lane_->low_latents());
        append(result.codes, lane_->codes());
        append(result.labels, chunk.labels);
        first += size;
    }
    std::vector<std::int64_t> places(parts.order.begin(), parts.order.begin() + static_cast<std::ptrdiff_t>(first));
    if (!is_ordered) {
        sort_by_place(result.images, places);
        sort_by_place(result.latents, places);
        sort_by_place(result.low_latents, places);
        sort_by_place(result.codes, places);
        sort_by_place(result.labels, places);
        std::sort(places.begin(), places.end());
    }
    for (const std::int64_t place : places)
        result.recipes.push_back(recipe(request, static_cast<std::size_t>(place), *bundle_));
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    result.engine_seconds = lane_->engine_seconds() - engines_before;
    result.stage_seconds = watch.seconds;
    return result;
}

Result Result::part(std::size_t first, std::size_t images_of_it) const {
    const std::size_t all = labels.size();
    Result part;
    part.images = part_of(images, all, first, images_of_it);
    part.latents = part_of(latents, all, first, images_of_it);
    part.low_latents = part_of(low_latents, all, first, images_of_it);
    part.codes = part_of(codes, all, first, images_of_it);
    part.labels = part_of(labels, all, first, images_of_it);
    part.recipes = part_of(recipes, all, first, images_of_it);
    for (const std::size_t place : truncated)
        if (place >= first && place < first + images_of_it) part.truncated.push_back(place - first);
    part.model = model;
    part.has_images = has_images;
    part.cancelled = cancelled;
    part.seconds = seconds, part.engine_seconds = engine_seconds, part.stage_seconds = stage_seconds;
    return part;
}

}  // namespace himar::core
