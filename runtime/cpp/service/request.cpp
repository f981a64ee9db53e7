#include "request.h"

#include <algorithm>
#include <iterator>
#include <random>

#include "json_values.h"

namespace himar::service {
namespace {

constexpr const char* kExample = "send for example {\"labels\": [3, 7]}.";
constexpr const char* kKeys[] = {"labels",   "seed",         "first_index",   "sampling",    "guidance",
                                 "low_guidance",  "high_guidance", "temperature", "low_steps", "high_steps",
                                 "low_diffusion_steps", "high_diffusion_steps", "guidance_schedule", "low_solver",
                                 "high_solver", "output"};

Json object_of(const std::string& body) {
    Json read;
    try {
        read = Json::parse(body);
    } catch (const Json::parse_error& error) {
        const bool not_utf8 = std::string(error.what()).find("UTF-8") != std::string::npos;
        throw Refusal(400, std::string("the body is not ") + (not_utf8 ? "UTF-8" : "valid JSON") + " (byte " +
                               std::to_string(error.byte) + "); " + kExample);
    } catch (const Json::exception&) {
        throw Refusal(400, std::string("the body holds a number that is too large; ") + kExample);
    }
    if (!read.is_object()) throw Refusal(400, "the body is " + shown(read) + "; it must be a JSON object: " + kExample);
    for (const auto& [key, value] : read.items()) {
        if (std::find(std::begin(kKeys), std::end(kKeys), key) != std::end(kKeys)) continue;
        std::string known;
        for (const char* each : kKeys) known += (known.empty() ? "" : ", ") + std::string(each);
        throw Refusal(400, shown(Json(key)) + " is not a key of a request; the keys are " + known + ".");
    }
    return read;
}

std::vector<std::int64_t> labels_of(const Json& read, std::size_t most_images, std::int64_t classes) {
    const auto found = read.find("labels");
    if (found == read.end()) throw Refusal(400, std::string("the body lacks \"labels\"; ") + kExample);
    if (!found->is_array()) refuse("labels", *found, "a list of class numbers");
    if (found->size() > most_images)
        throw Refusal(413, "labels holds " + std::to_string(found->size()) + " classes; a request may ask for at most " +
                               std::to_string(most_images) + " images: send several requests.");
    std::vector<std::int64_t> labels;
    for (const Json& label : *found) {
        if (!fits<std::int64_t>(label))
            throw Refusal(400, "label " + shown(label) + " (number " + std::to_string(labels.size()) +
                                   " of the list) is not a class of this model; classes are the whole numbers 0 to " +
                                   std::to_string(classes - 1) + ".");
        labels.push_back(label.get<std::int64_t>());
    }
    return labels;
}

std::uint64_t seed_of(const char* key, const Json& value) {
    if (!fits<std::uint64_t>(value)) refuse(key, value, "a whole number from 0 to 2^64-1");
    return value.get<std::uint64_t>();
}

// An image index has 32 bits.
std::uint64_t first_index_of(const char* key, const Json& value, std::size_t images) {
    if (!is_whole(value)) refuse(key, value, "a whole number");
    if (!fits<std::uint64_t>(value)) refuse(key, value, "0 to " + std::to_string((std::uint64_t{1} << 32) - images));
    return value.get<std::uint64_t>();
}

// Steps of a phase with `positions` positions.
std::int32_t steps_of(const char* key, const Json& value, const char* phase, std::int64_t positions) {
    if (!is_whole(value)) refuse(key, value, "a whole number");
    if (value < 1) refuse(key, value, "at least 1");
    if (!fits<std::int32_t>(value))
        throw Refusal(400, std::string(key) + " is " + shown(value) + ", but phase " + phase + " has only " +
                               std::to_string(positions) + " positions; ask for 1 to " + std::to_string(positions) +
                               " steps.");
    return value.get<std::int32_t>();
}

std::int32_t diffusion_steps_of(const char* key, const Json& value) {
    if (!is_whole(value)) refuse(key, value, "a whole number");
    if (value < 1 || !fits<std::int32_t>(value)) refuse(key, value, "2 to 1000");
    return value.get<std::int32_t>();
}

double scale_of(const char* key, const Json& value) {
    if (!value.is_number()) refuse(key, value, "a number");
    return value.get<double>();
}

himar_guidance_schedule schedule_of(const char* key, const Json& value) {
    return one_of(key, value, {"linear", "constant"}) == 0 ? HIMAR_GUIDANCE_LINEAR : HIMAR_GUIDANCE_CONSTANT;
}

himar_solver solver_of(const char* key, const Json& value) {
    constexpr himar_solver solvers[] = {HIMAR_SOLVER_DDPM, HIMAR_SOLVER_DDIM, HIMAR_SOLVER_DPMPP};
    return solvers[one_of(key, value, {"ddpm", "ddim", "dpm++"})];
}

std::size_t output_of(const char* key, const Json& value) { return one_of(key, value, {"png", "latents"}); }

// Set `to` to what `read_value` makes of the key's value, when the key is there.
template <class Value, class Read, class... More>
void take(const Json& read, const char* key, Value& to, Read read_value, More... more) {
    if (const auto found = read.find(key); found != read.end()) to = read_value(key, *found, more...);
}

}  // namespace

ImageRequest read_image_request(const std::string& body, std::size_t most_images, const himar_pipeline_info& info) {
    const Json read = object_of(body);
    ImageRequest request;
    GenerateOptions& options = request.options;
    options.labels = labels_of(read, most_images, info.classes);
    options.seed = random_seed();
    take(read, "seed", options.seed, seed_of);
    take(read, "first_index", options.first_index, first_index_of, options.labels.size());
    take(read, "sampling", options.sampling, text_of);
    take(read, "guidance", options.guidance, scale_of);
    take(read, "low_guidance", options.low_guidance, scale_of);
    take(read, "high_guidance", options.high_guidance, scale_of);
    take(read, "temperature", options.temperature, scale_of);
    take(read, "low_steps", options.low_steps, steps_of, "low", info.low_latent_size * info.low_latent_size);
    take(read, "high_steps", options.high_steps, steps_of, "high", info.latent_size * info.latent_size);
    take(read, "low_diffusion_steps", options.low_diffusion_steps, diffusion_steps_of);
    take(read, "high_diffusion_steps", options.high_diffusion_steps, diffusion_steps_of);
    take(read, "guidance_schedule", options.guidance_schedule, schedule_of);
    take(read, "low_solver", options.low_solver, solver_of);
    take(read, "high_solver", options.high_solver, solver_of);
    std::size_t output = 0;
    take(read, "output", output, output_of);
    request.latents = output == 1;
    return request;
}

std::uint64_t random_seed() {
    std::random_device device;
    return ((std::uint64_t{device()} << 32) | device()) >> 11;
}

}  // namespace himar::service
