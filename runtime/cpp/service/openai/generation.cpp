#include "openai/generation.h"

#include <map>
#include <utility>
#include <vector>

#include "json_body.h"
#include "openai/fields.h"
#include "openai/pictures.h"
#include "request.h"
#include "text.h"

namespace himar::service::openai {
namespace {

using core::in_quotes;
using core::joined;
using Json = nlohmann::ordered_json;

constexpr int kMostImages = 10, kMostPartialImages = 3;

// OpenAI's words, and the bundle's settings that they stand for.
const std::vector<std::pair<std::string, std::string>> kQualities = {
    {"low", "fast"}, {"medium", "forecast"}, {"high", "paper"}};

void check_model(const Fields& fields, const ServedModel& model) {
    const Json* const asked = fields.find("model");
    if (asked == nullptr || (asked->is_string() && model.is_called(asked->get<std::string>()))) return;
    throw Refusal(404, "model is " + shown(*asked) + ", but this server has " + in_quotes(model.name) +
                           " alone; ask for that, or leave it out.", "model", "model_not_found");
}

// Set the class or the text that the images are to show.
void read_prompt(const Fields& fields, const Pipeline& pipeline, std::size_t count, GenerateOptions& options) {
    const himar_pipeline_info info = pipeline.info();
    const bool from_text = info.context_length > 0;
    const Json* const prompt = fields.find("prompt");
    if (prompt == nullptr)
        throw Refusal(400, std::string("the body lacks \"prompt\"; give ") +
                               (from_text ? "a text." : "the name or the number of a class."), "prompt",
                      "missing_required_parameter");
    if (!prompt->is_string()) throw wrong("prompt", "prompt is " + shown(*prompt) + "; write it as a string.");
    if (!from_text) {
        options.labels.assign(count, about("prompt", [&] { return pipeline.find_class(prompt->get<std::string>()); }));
        return;
    }
    if (info.takes_prompts == 0)
        throw wrong("prompt", "this bundle has no text_encoder, so it takes no prompts; serve one built with --text.");
    options.prompts.assign(1, prompt->get<std::string>());
    about("prompt", [&] { pipeline.check_options(options); });
    options.prompts.assign(count, prompt->get<std::string>());
}

void read_stream(const Fields& fields, int count, Generation& generation) {
    const Json* const stream = fields.find("stream");
    if (stream != nullptr && !stream->is_boolean())
        throw wrong("stream", "stream is " + shown(*stream) + "; it must be true or false.");
    generation.stream = stream != nullptr && stream->get<bool>();
    generation.partial_images = fields.whole("partial_images", 0, 0, kMostPartialImages);
    if (generation.partial_images > 0 && !generation.stream)
        throw wrong("partial_images", "partial_images is " + std::to_string(generation.partial_images) +
                                          ", but stream is not true; ask for a stream.");
    if (generation.stream && count > 1)
        throw wrong("n", "n is " + std::to_string(count) + ", but a stream shows one image; send a request for each.");
}

// The setting that a quality stands for, one with that very name before OpenAI's words.
void read_quality(const Fields& fields, const Pipeline& pipeline, Generation& generation) {
    const Words settings = core::split(pipeline.info().sampling, ", ");
    Words words = {"auto"};
    std::map<std::string, std::string> known = {{"auto", settings.front()}};
    for (const auto& [word, setting] : kQualities)
        if (has(settings, setting) && known.emplace(word, setting).second) words.push_back(word);
    for (const std::string& name : settings) {
        if (!has(words, name)) words.push_back(name);
        known[name] = name;
    }
    generation.quality = fields.word("quality", words, "; this bundle has " + joined(words) + ".");
    generation.options.sampling = known.at(generation.quality);
    about("quality", [&] { pipeline.settings(generation.options); });
    const Json* const guidance = fields.find("guidance_scale");
    if (guidance == nullptr) return;
    if (!guidance->is_number())
        throw wrong("guidance_scale", "guidance_scale is " + shown(*guidance) + "; it must be a number.");
    generation.options.guidance = guidance->get<double>();
    about("guidance_scale", [&] { pipeline.settings(generation.options); });
}

void read_format(const Fields& fields, Generation& generation) {
    const Words& formats = writable_formats();
    generation.format = fields.word("output_format", formats, "; this server writes " + joined(formats) + ".");
    generation.compression = fields.whole("output_compression", 100, 0, 100);
    if (generation.format == "png" && generation.compression != 100)
        throw wrong("output_compression", "output_compression is " + std::to_string(generation.compression) +
                                              ", but a PNG loses nothing; leave it out, or ask for another output_format.");
}

std::uint64_t read_seed(const Fields& fields) {
    const Json* const seed = fields.find("seed");
    if (seed == nullptr) return random_seed();
    if (!seed->is_number_unsigned())
        throw wrong("seed", "seed is " + shown(*seed) + "; it must be a whole number from 0 to 2^64-1.");
    return seed->get<std::uint64_t>();
}

}  // namespace

const Words& taken_fields() {
    static const Words taken = {"prompt", "model", "n", "size", "quality", "stream", "partial_images", "output_format",
                                "output_compression", "background", "response_format", "seed", "guidance_scale"};
    return taken;
}

const Words& ignored_fields() {
    static const Words ignored = {"moderation", "safety_identifier", "style", "user"};  // nothing that this server could do
    return ignored;
}

Generation read_generation(const std::string& body, const Pipeline& pipeline, const ServedModel& model,
                           std::size_t most_images) {
    const Json values = parsed_body<Json>(body, "send a JSON object.");
    if (!values.is_object())
        throw Refusal(400, "the body is " + shown(values) + "; it must be a JSON object with prompt.");
    for (const auto& [key, value] : values.items()) check_known(key, taken_fields(), ignored_fields());
    return read_fields(Fields(values), pipeline, model, most_images, nullptr);
}

Generation read_fields(const Fields& fields, const Pipeline& pipeline, const ServedModel& model, std::size_t most_images,
                       const ReadEdited& read_edited) {
    const himar_pipeline_info info = pipeline.info();
    check_model(fields, model);
    if (info.has_decoder == 0)
        throw Refusal(400, "this bundle has no VAE decoder, so there are no images; ask /v1/images for latents.");
    const int count = fields.whole("n", 1, 1, kMostImages);
    if (static_cast<std::size_t>(count) > most_images)
        throw wrong("n", "n is " + std::to_string(count) + ", but this server makes at most " + std::to_string(most_images) +
                             " images in one request.");
    Generation generation{};
    const bool is_shown = read_edited == nullptr || fields.find("prompt") != nullptr;
    if (is_shown) read_prompt(fields, pipeline, static_cast<std::size_t>(count), generation.options);
    read_stream(fields, count, generation);
    read_quality(fields, pipeline, generation);
    read_format(fields, generation);
    generation.options.seed = read_seed(fields);
    fields.word("response_format", {"b64_json"},
                ", but this server keeps no images, so it has no addresses of them; leave it out.");
    fields.word("background", {"auto", "opaque"}, ", but the images are opaque; leave it out.");
    const std::string side = std::to_string(info.image_size);
    generation.size = side + "x" + side;
    fields.word("size", {"auto", generation.size},
                ", but this model makes images of " + generation.size + "; ask for that, or 'auto'.");
    generation.text_tokens = is_shown ? info.context_length : 0;
    if (read_edited != nullptr) generation.edited = read_edited(count);
    return generation;
}

}  // namespace himar::service::openai
