#include "openai/generation.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "json_body.h"
#include "openai/pictures.h"
#include "request.h"
#include "text.h"

namespace himar::service::openai {
namespace {

using core::in_quotes;
using core::joined;
using Json = nlohmann::ordered_json;
using Words = std::vector<std::string>;

constexpr int kMostImages = 10, kMostPartialImages = 3;

const Words kTaken = {"prompt", "model", "n", "size", "quality", "stream", "partial_images", "output_format",
                      "output_compression", "background", "response_format", "seed", "guidance_scale"};
const Words kIgnored = {"moderation", "safety_identifier", "style", "user"};  // they say nothing that this server could do

// OpenAI's words, and the bundle's settings that they stand for.
const std::vector<std::pair<std::string, std::string>> kQualities = {
    {"low", "fast"}, {"medium", "forecast"}, {"high", "paper"}};

bool has(const Words& words, const std::string& word) {
    return std::find(words.begin(), words.end(), word) != words.end();
}

// Whether a value holds others inside others, more than so many levels of them.
bool is_deeper(const Json& value, int levels) {
    const auto inside = [&](const Json& each) { return is_deeper(each, levels - 1); };
    return value.is_structured() && (levels == 0 || std::any_of(value.begin(), value.end(), inside));
}

// A value as a sentence shows it.
std::string shown(const Json& value) {
    constexpr std::size_t most = 200;
    if (value.is_string()) return in_quotes(value.get<std::string>());
    if (is_deeper(value, 3)) return value.is_array() ? "a list of lists" : "an object of objects";
    const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    return text.size() <= most ? text : text.substr(0, most) + "…";
}

Refusal wrong(const std::string& param, const std::string& sentence) { return {400, sentence, param, "invalid_value"}; }

// The fields of a request that are not null, OpenAI's word for the default.
class Fields {
public:
    explicit Fields(const std::string& body) : values_(parsed_body<Json>(body, "send a JSON object.")) {
        if (!values_.is_object())
            throw Refusal(400, "the body is " + shown(values_) + "; it must be a JSON object with prompt.");
        for (const auto& [key, value] : values_.items())
            if (!has(kTaken, key) && !has(kIgnored, key))
                throw Refusal(400, "unknown parameter " + in_quotes(key) + "; this server takes " + joined(kTaken) + ".", key,
                              "unknown_parameter");
    }

    // Null where there is none.
    const Json* find(const std::string& key) const {
        const auto found = values_.find(key);
        return found == values_.end() || found->is_null() ? nullptr : &*found;
    }

    int whole(const std::string& key, int other, int least, int most) const {
        const Json* const value = find(key);
        if (value == nullptr) return other;
        const bool fits = value->is_number_unsigned()
                              ? value->get<std::uint64_t>() <= static_cast<std::uint64_t>(most)
                              : value->is_number_integer() && value->get<std::int64_t>() <= most;
        if (!fits || value->get<std::int64_t>() < least)
            throw wrong(key, key + " is " + shown(*value) + "; it must be a whole number from " + std::to_string(least) +
                                 " to " + std::to_string(most) + ".");
        return value->get<int>();
    }

    // One of the words, the first by default; `reason` follows the value of any other.
    std::string word(const std::string& key, const Words& words, const std::string& reason) const {
        const Json* const value = find(key);
        if (value == nullptr) return words.front();
        if (!value->is_string() || !has(words, value->get<std::string>()))
            throw wrong(key, key + " is " + shown(*value) + reason);
        return value->get<std::string>();
    }

private:
    Json values_;
};

void check_model(const Fields& fields, const ServedModel& model) {
    const Json* const asked = fields.find("model");
    if (asked == nullptr || (asked->is_string() && model.is_called(asked->get<std::string>()))) return;
    throw Refusal(404, "model is " + shown(*asked) + ", but this server has " + in_quotes(model.name) +
                           " alone; ask for that, or leave it out.", "model", "model_not_found");
}

// Call what throws the runtime's errors, which then are of this field.
template <class Body>
auto about(const std::string& param, Body body) {
    try {
        return body();
    } catch (const Error& error) {
        if (error.status() != HIMAR_ERROR_INPUT) throw;
        throw wrong(param, error.what());
    }
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
    about("quality", [&] { pipeline.check_options(generation.options); });
    const Json* const guidance = fields.find("guidance_scale");
    if (guidance == nullptr) return;
    if (!guidance->is_number())
        throw wrong("guidance_scale", "guidance_scale is " + shown(*guidance) + "; it must be a number.");
    generation.options.guidance = guidance->get<double>();
    about("guidance_scale", [&] { pipeline.check_options(generation.options); });
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

Generation read_generation(const std::string& body, const Pipeline& pipeline, const ServedModel& model,
                           std::size_t most_images) {
    const Fields fields(body);
    const himar_pipeline_info info = pipeline.info();
    check_model(fields, model);
    if (info.has_decoder == 0)
        throw Refusal(400, "this bundle has no VAE decoder, so there are no images; ask /v1/images for latents.");
    const int count = fields.whole("n", 1, 1, kMostImages);
    if (static_cast<std::size_t>(count) > most_images)
        throw wrong("n", "n is " + std::to_string(count) + ", but this server makes at most " + std::to_string(most_images) +
                             " images in one request.");
    Generation generation{};
    read_prompt(fields, pipeline, static_cast<std::size_t>(count), generation.options);
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
    generation.text_tokens = info.context_length;
    return generation;
}

}  // namespace himar::service::openai
