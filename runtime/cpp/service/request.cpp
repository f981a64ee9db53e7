#include "request.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "json_body.h"
#include "text.h"

namespace himar::service {
namespace {

using core::alternatives;
using core::joined;
using Json = nlohmann::json;

// The key that says what the images show.
const char* wanted(const himar_pipeline_info& info) { return info.context_length > 0 ? "prompts" : "labels"; }

std::string example(const himar_pipeline_info& info) {
    return info.context_length > 0 ? "send for example {\"prompts\": [\"a red three\"]}."
                                   : "send for example {\"labels\": [3, 7]}.";
}

// The keys of a request to a model.
std::vector<std::string> keys_of(const himar_pipeline_info& info) {
#define HIMAR_NAME(kind, name) #name,
    if (std::string(info.family) == "hmar")
        return {wanted(info), "seed", "first_index", "sampling", "guidance", HIMAR_HMAR_SETTINGS(HIMAR_NAME) "output"};
    return {wanted(info), "seed", "first_index", "sampling", "guidance", HIMAR_HI_MAR_SETTINGS(HIMAR_NAME) "output"};
#undef HIMAR_NAME
}

// A value as a sentence shows it: one short line of ASCII.
std::string shown(const Json& value) {
    if (value.is_array()) return "a list";
    if (value.is_object()) return "an object";
    constexpr std::size_t most = 60;
    const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    return text.size() <= most ? text : text.substr(0, most) + (value.is_string() ? "...\"" : "...");
}

[[noreturn]] void refuse(const std::string& key, const Json& value, const std::string& wanted) {
    throw Refusal(400, key + " is " + shown(value) + "; it must be " + wanted + ".");
}

// True for an integer of any size: not for 7.0, true or "7". Beyond 64 bits JSON's reader gives a fraction.
bool is_whole(const Json& value) {
    return value.is_number_integer() || (value.is_number_float() && std::fabs(value.get<double>()) >= 0x1p63);
}

// True for a whole number that the type holds.
template <class Whole>
bool fits(const Json& value) {
    using Limits = std::numeric_limits<Whole>;
    if (value.is_number_unsigned()) return value.get<std::uint64_t>() <= static_cast<std::uint64_t>(Limits::max());
    if (!value.is_number_integer()) return false;
    const auto number = value.get<std::int64_t>();
    if constexpr (Limits::is_signed) return number >= Limits::min() && number <= Limits::max();
    return number >= 0;
}

Json object_of(const std::string& body, const himar_pipeline_info& info) {
    const std::vector<std::string> keys = keys_of(info);
    Json read = parsed_body<Json>(body, example(info));
    if (!read.is_object()) throw Refusal(400, "the body is " + shown(read) + "; it must be a JSON object: " + example(info));
    for (const auto& [key, value] : read.items()) {
        if (std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
        if (key == "labels" || key == "prompts")
            throw Refusal(400, key + " is given, but this bundle's model makes images " +
                                   (key == "labels" ? "from text" : "of classes") + "; give " + wanted(info) + ".");
        throw Refusal(400, shown(Json(key)) + " is not a key of a request; the keys are " + joined(keys) + ".");
    }
    return read;
}

// The list that has an entry for each image.
const Json& list_of(const Json& read, std::size_t most_images, const himar_pipeline_info& info) {
    const std::string key = wanted(info), each = info.context_length > 0 ? "texts" : "class numbers";
    const auto found = read.find(key);
    const std::string advice = "give a list of " + each + ", one per image.";
    if (found == read.end()) throw Refusal(400, "the body lacks \"" + key + "\"; " + advice);
    if (!found->is_array()) throw Refusal(400, key + " is " + shown(*found) + "; " + advice);
    if (found->size() > most_images)
        throw Refusal(413, key + " has " + std::to_string(found->size()) + " entries; ask for at most " +
                               std::to_string(most_images) + " images in one request.");
    return *found;
}

std::vector<std::string> prompts_of(const Json& listed, const himar_pipeline_info& info) {
    if (info.takes_prompts == 0)
        throw Refusal(400, "this bundle has no text_encoder, so it takes no prompts; serve one built with --text.");
    if (listed.empty()) throw Refusal(400, "prompts is empty; give at least one text.");
    std::vector<std::string> prompts;
    for (const Json& prompt : listed) {
        if (!prompt.is_string())
            throw Refusal(400, "prompt " + std::to_string(prompts.size()) + " is " + shown(prompt) +
                                   ", which is not text; write it as a string.");
        prompts.push_back(prompt.get<std::string>());
    }
    return prompts;
}

std::vector<std::int64_t> labels_of(const Json& listed, std::int64_t classes) {
    std::vector<std::int64_t> labels;
    for (const Json& label : listed) {
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

// Text for C, where a NUL would cut it off.
std::string text_of(const char* key, const Json& value) {
    if (!value.is_string() || value.get_ref<const std::string&>().find('\0') != std::string::npos)
        refuse(key, value, "the name of a sampling setting, as /v1/model lists them");
    return value.get<std::string>();
}

// One of the words, else refused.
std::string word_of(const char* key, const Json& value, const std::vector<std::string>& words) {
    for (const std::string& word : words)
        if (value == word) return word;
    std::string text = shown(value);
    if (value.is_string()) text = "'" + text.substr(1, text.size() - 2) + "'";
    throw Refusal(400, std::string(key) + " is " + text + "; it must be " + alternatives(words) + ".");
}

// A value for each kind of himar.h's list of settings.
std::int32_t steps_of(const char* key, const Json& value, const himar_pipeline_info& info) {
    if (!is_whole(value)) refuse(key, value, "a whole number");
    if (value < 1) refuse(key, value, "at least 1");
    if (fits<std::int32_t>(value)) return value.get<std::int32_t>();
    const std::string name = key, phase = name.substr(0, name.find('_'));
    const std::int64_t side = phase == "low" ? info.low_latent_size : info.latent_size;
    const std::string positions = std::to_string(side * side);
    throw Refusal(400, name + " is " + shown(value) + ", but phase " + phase + " has only " + positions +
                           " positions; ask for 1 to " + positions + " steps.");
}

std::int32_t diffusion_steps_of(const char* key, const Json& value, const himar_pipeline_info&) {
    if (!is_whole(value)) refuse(key, value, "a whole number");
    if (value < 1 || !fits<std::int32_t>(value)) refuse(key, value, "2 to 1000");
    return value.get<std::int32_t>();
}

double scale_of(const char* key, const Json& value, const himar_pipeline_info&) {
    if (!value.is_number()) refuse(key, value, "a number");
    return value.get<double>();
}

template <class Enumeration>
Enumeration enumerator_of(const char* key, const Json& value) {
    return *named<Enumeration>(word_of(key, value, words_of(Enumeration{})));
}

himar_guidance_schedule schedule_of(const char* key, const Json& value, const himar_pipeline_info&) {
    return enumerator_of<himar_guidance_schedule>(key, value);
}

himar_solver solver_of(const char* key, const Json& value, const himar_pipeline_info&) {
    return enumerator_of<himar_solver>(key, value);
}

std::int32_t top_k_of(const char* key, const Json& value, const himar_pipeline_info&) {
    if (!is_whole(value)) refuse(key, value, "a whole number");
    if (value < 0) refuse(key, value, "at least 0");
    if (!fits<std::int32_t>(value)) refuse(key, value, "0 (all) to the number of the model's codes");
    return value.get<std::int32_t>();
}

// As JSON again: what is wrong with its numbers is the runtime's to say.
std::string numbers_of(const char* key, const Json& value, const char* each) {
    if (!value.is_array()) refuse(key, value, "a list");
    for (std::size_t place = 0; place < value.size(); ++place)
        if (value[place].is_structured()) refuse(std::string(key) + "[" + std::to_string(place) + "]", value[place], each);
    return value.dump(-1, ' ', true, Json::error_handler_t::replace);
}

std::string step_counts_of(const char* key, const Json& value, const himar_pipeline_info&) {
    return numbers_of(key, value, "a whole number");
}

std::string scales_of(const char* key, const Json& value, const himar_pipeline_info&) {
    return numbers_of(key, value, "a number");
}

double least_scale_of(const char* key, const Json& value, const himar_pipeline_info& info) {
    return scale_of(key, value, info);
}

std::int32_t interval_of(const char* key, const Json& value, const himar_pipeline_info&) {
    if (!is_whole(value)) refuse(key, value, "a whole number");
    if (value < 1 || !fits<std::int32_t>(value)) refuse(key, value, "1 to 1000");
    return value.get<std::int32_t>();
}

std::int32_t order_of(const char* key, const Json& value, const himar_pipeline_info&) {
    if (!is_whole(value)) refuse(key, value, "a whole number");
    if (value < 0 || !fits<std::int32_t>(value)) refuse(key, value, "0 to 2");
    return value.get<std::int32_t>();
}

double top_p_of(const char* key, const Json& value, const himar_pipeline_info& info) { return scale_of(key, value, info); }

// As JSON again: what is wrong with its numbers is the runtime's to say.
std::string counts_of(const char* key, const Json& value, const himar_pipeline_info&) {
    const auto is_flat = [](const Json& counts) {
        return counts.is_array() && std::none_of(counts.begin(), counts.end(), [](const Json& count) { return count.is_structured(); });
    };
    if (!value.is_array() || !std::all_of(value.begin(), value.end(), is_flat))
        refuse(key, value, "a list of counts for each scale, for example [[1], [1, 3]]");
    return value.dump(-1, ' ', true, Json::error_handler_t::replace);
}

bool on_off_of(const char* key, const Json& value, const himar_pipeline_info&) {
    if (!value.is_boolean()) refuse(key, value, "true or false");
    return value.get<bool>();
}

// Set `to` to what `read_value` makes of the key's value, when the key is there.
template <class Value, class Read, class... More>
void take(const Json& read, const char* key, Value& to, Read read_value, const More&... more) {
    if (const auto found = read.find(key); found != read.end()) to = read_value(key, *found, more...);
}

}  // namespace

ImageRequest read_image_request(const std::string& body, std::size_t most_images, const himar_pipeline_info& info) {
    const Json read = object_of(body, info);
    const Json& listed = list_of(read, most_images, info);
    ImageRequest request;
    GenerateOptions& options = request.options;
    if (info.context_length > 0)
        options.prompts = prompts_of(listed, info);
    else
        options.labels = labels_of(listed, info.classes);
    options.seed = random_seed();
    take(read, "seed", options.seed, seed_of);
    take(read, "first_index", options.first_index, first_index_of, listed.size());
    take(read, "sampling", options.sampling, text_of);
    take(read, "guidance", options.guidance, scale_of, info);
#define HIMAR_TAKE(kind, name) take(read, #name, options.name, kind##_of, info);
    HIMAR_HI_MAR_SETTINGS(HIMAR_TAKE)  // keys of the other family are not there
    HIMAR_HMAR_SETTINGS(HIMAR_TAKE)
#undef HIMAR_TAKE
    std::string output;
    take(read, "output", output, word_of, std::vector<std::string>{"png", "latents"});
    request.latents = output == "latents";
    return request;
}

std::uint64_t random_seed() {
    std::random_device device;
    return ((std::uint64_t{device()} << 32) | device()) >> 11;
}

}  // namespace himar::service
