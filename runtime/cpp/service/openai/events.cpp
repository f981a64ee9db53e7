#include "openai/events.h"

#include <ctime>
#include <nlohmann/json.hpp>

#include "openai/pictures.h"

namespace himar::service::openai {
namespace {

using Json = nlohmann::ordered_json;

// what: "partial_image" or "completed".
std::string event(const Generation& asked, const std::string& what, Json values) {
    const std::string kind = (asked.edited == nullptr ? "image_generation." : "image_edit.") + what;
    Json typed = {{"type", kind}};
    typed.update(values);
    return "event: " + kind + "\ndata: " + dumped(typed) + "\n\n";
}

std::string encoded(const Generation& asked, const View<std::uint8_t>& image, const std::string& recipe) {
    const std::string bytes = encode_picture(asked.format, asked.compression, image, recipe);
    return base64(bytes.data(), bytes.size());
}

// What all answers say of how an image looks.
Json look(const Generation& asked) {
    return {{"background", "opaque"}, {"output_format", asked.format}, {"quality", asked.quality}, {"size", asked.size}};
}

// Tokens as the model counts them: rows of text context in, positions of latents out, and in of what is edited.
Json usage(const Generation& asked, const Result& result) {
    const auto count = static_cast<std::int64_t>(result.labels().size());
    const auto shape = result.latents().shape();
    const std::int64_t text = asked.text_tokens * count, out = shape[2] * shape[3] * count;
    const std::int64_t image = asked.edited == nullptr ? 0 : out;
    return {{"input_tokens", image + text},
            {"input_tokens_details", {{"image_tokens", image}, {"text_tokens", text}}},
            {"output_tokens", out},
            {"total_tokens", image + text + out}};
}

}  // namespace

Answer generated(const Generation& asked, const Job& job, const Result& result) {
    Json further = look(asked);
    further.update({{"seed", asked.options.seed},
                    {"usage", usage(asked, result)},
                    {"seconds", {{"queued", job.queued}, {"generate", result.seconds()}}}});
    if (!asked.options.prompts.empty()) further["truncated"] = result.truncated();
    Json data = Json::array();
    for (std::size_t place = 0; place < result.labels().size(); ++place) {
        const std::string recipe = result.recipe(place);
        const View<std::uint8_t> image = result.images().image(static_cast<std::int64_t>(place));
        data.push_back({{"b64_json", encoded(asked, image, recipe)}, {"recipe", Json::parse(recipe)}});
    }
    Answer answer;
    if (asked.stream) {
        Json values = {{"b64_json", std::move(data[0]["b64_json"])}, {"created_at", std::time(nullptr)}};
        values.update(further);
        values["recipe"] = std::move(data[0]["recipe"]);
        answer.type = kEvents;
        answer.body = event(asked, "completed", std::move(values));
    } else {
        Json values = {{"created", std::time(nullptr)}};
        values.update(further);
        values["data"] = std::move(data);
        answer.body = dumped(values);
    }
    return answer;
}

std::string partial_image(const Generation& asked, std::size_t index, const View<std::uint8_t>& pixels) {
    Json values = {{"b64_json", encoded(asked, pixels, "")},
                   {"partial_image_index", index},
                   {"created_at", std::time(nullptr)}};
    values.update(look(asked));
    values["size"] = std::to_string(pixels.shape()[2]) + "x" + std::to_string(pixels.shape()[1]);
    return event(asked, "partial_image", std::move(values));
}

std::string error_event(const std::string& body) { return "event: error\ndata: " + body + "\n\n"; }

}  // namespace himar::service::openai
