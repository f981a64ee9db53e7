#include "answer.h"

#include <openssl/evp.h>

#include <nlohmann/json.hpp>

#include "png_file.h"
#include "text.h"

namespace himar::service {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kLongestSentence = 600;  // bytes

static_assert(sizeof(float) == 4 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "latents are sent as they lie in memory");

void add_latents(Json& image, const View<float>& latents, std::size_t index) {
    const View<float> one = latents.image(static_cast<std::int64_t>(index));
    image["latents"] = base64(one.data(), one.size() * sizeof(float));
    image["shape"] = {one.shape()[1], one.shape()[2], one.shape()[3]};
}

}  // namespace

std::string dumped(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string shortened(const std::string& sentence) {
    if (sentence.size() <= kLongestSentence) return sentence;
    std::size_t end = kLongestSentence - 3;
    while (end > 0 && (static_cast<unsigned char>(sentence[end]) & 0xC0) == 0x80) --end;  // not inside a character
    return sentence.substr(0, end) + "…";
}

std::string base64(const void* bytes, std::size_t size) {
    std::string text((size + 2) / 3 * 4 + 1, '\0');  // EVP_EncodeBlock ends with a NUL
    const int written = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                        static_cast<const unsigned char*>(bytes), static_cast<int>(size));
    text.resize(static_cast<std::size_t>(written));
    return text;
}

std::string png_of(const Result& result, std::size_t index) {
    const View<std::uint8_t> image = result.images().image(static_cast<std::int64_t>(index));
    return png_bytes(image.data(), static_cast<std::uint32_t>(image.shape()[2]),
                     static_cast<std::uint32_t>(image.shape()[1]), result.recipe(index));
}

std::string images_json(const Result& result, std::uint64_t seed, bool latents, double queued) {
    const bool from_prompts = result.labels().size() > 0 && Json::parse(result.recipe(0)).contains("prompt");
    Json images = Json::array();
    for (std::size_t i = 0; i < result.labels().size(); ++i) {
        Json recipe = Json::parse(result.recipe(i));
        const char* const shown = recipe.contains("prompt") ? "prompt" : "label";
        Json image = {{shown, recipe[shown]}, {"index", recipe["index"]}};
        if (latents) {
            add_latents(image, result.latents(), i);
        } else {
            const std::string png = png_of(result, i);
            image["png"] = base64(png.data(), png.size());
        }
        image["recipe"] = std::move(recipe);
        images.push_back(std::move(image));
    }
    Json answer = {{"seed", seed},
                   {"images", std::move(images)},
                   {"seconds", {{"queued", queued}, {"generate", result.seconds()}}}};
    if (from_prompts) answer["truncated"] = result.truncated();
    return dumped(answer);
}

std::string error_json(const std::string& sentence) { return dumped({{"error", sentence}}); }

std::string model_json(const Pipeline& pipeline, const std::string& name, std::size_t lanes) {
    const himar_pipeline_info info = pipeline.info();
    Json model = {{"name", name}, {"bundle", info.bundle_id}, {"classes", info.classes}};
    Json names = Json::array();
    for (std::int64_t label = 0; label < info.classes; ++label)
        if (const auto known = pipeline.class_name(label)) names.push_back(*known);
    if (!names.empty()) model["class_names"] = std::move(names);
    if (info.context_length > 0) model.update({{"context", "text"}, {"prompts", info.takes_prompts != 0}});
    model.update({{"image_size", info.image_size},
                  {"max_batch", info.max_batch},
                  {"has_decoder", info.has_decoder != 0},
                  {"sampling", core::split(info.sampling, ", ")},
                  {"lanes", lanes},
                  {"version", himar_version()}});
    return dumped(model);
}

}  // namespace himar::service
