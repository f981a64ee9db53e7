// Bodies of POST /v1/images and command lines of himar-serve: what is taken, and what is said of the rest.
#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <vector>

#include "arguments.h"
#include "bundles.h"
#include "command_line.h"
#include "request.h"

using himar::service::ImageRequest;
using himar::service::Refusal;

namespace {

himar_pipeline_info info_of(const char* family) {
    himar_pipeline_info info{};
    info.family = family;
    info.classes = 5;
    info.latent_size = 4;
    info.low_latent_size = 2;
    return info;
}

ImageRequest read(const std::string& body, std::size_t most_images = 3, const char* family = "hi_mar") {
    return himar::service::read_image_request(body, most_images, info_of(family));
}

// Of a model from text.
ImageRequest read_text(const std::string& body, bool has_encoder = true) {
    himar_pipeline_info info = info_of("hi_mar");
    info.classes = 0, info.context_length = 6, info.context_width = 5, info.takes_prompts = has_encoder ? 1 : 0;
    return himar::service::read_image_request(body, 3, info);
}

std::string refusal_of_hmar(const std::string& body) {
    return sentence_of<Refusal>([&] { read(body, 3, "hmar"); });
}

int code_of(const std::string& body) {
    try {
        read(body);
    } catch (const Refusal& refusal) {
        return refusal.status;
    }
    return 200;
}

Arguments arguments(std::vector<std::string> words) {
    words.insert(words.begin(), "himar-serve");
    std::vector<char*> values;
    for (std::string& word : words) values.push_back(word.data());
    values.push_back(nullptr);
    return read_arguments(static_cast<int>(words.size()), values.data());
}

}  // namespace

TEST_SUITE_BEGIN("service");

TEST_CASE("every key of a body arrives in its option") {
    const ImageRequest request = read(R"({"labels": [3, 4], "seed": 18446744073709551615, "first_index": 4294967290,
        "sampling": "plain", "guidance": 2.5, "low_guidance": 1, "high_guidance": 0.5, "temperature": 0.9,
        "low_steps": 2, "high_steps": 3, "low_diffusion_steps": 20, "high_diffusion_steps": 30,
        "guidance_schedule": "constant", "low_solver": "ddim", "high_solver": "dpm++", "output": "latents"})");
    const himar::GenerateOptions& o = request.options;
    CHECK(o.labels == std::vector<std::int64_t>{3, 4});
    CHECK(o.seed == std::numeric_limits<std::uint64_t>::max());
    CHECK(o.first_index == 4294967290u);
    CHECK(o.sampling == "plain");
    CHECK((o.guidance == 2.5 && o.low_guidance == 1.0 && o.high_guidance == 0.5 && o.temperature == 0.9));
    CHECK((o.low_steps == 2 && o.high_steps == 3 && o.low_diffusion_steps == 20 && o.high_diffusion_steps == 30));
    CHECK(o.guidance_schedule == HIMAR_GUIDANCE_CONSTANT);
    CHECK((o.low_solver == HIMAR_SOLVER_DDIM && o.high_solver == HIMAR_SOLVER_DPMPP));
    CHECK(request.latents);
}

TEST_CASE("lists and what chains leave out arrive in their options") {
    const ImageRequest request = read(R"({"labels": [3], "low_diffusion_counts": [20, 10], "high_diffusion_counts": [],
        "low_guidances": [1, 2.5], "high_guidances": [3], "least_guidance": 1.2, "low_forecast": 4, "high_forecast": 8,
        "forecast_order": 0, "forecast_first": 6, "forecast_last": 2, "guidance_interval": 3,
        "modulation_interval": 2})");
    const himar::GenerateOptions& o = request.options;
    CHECK((o.low_diffusion_counts == "[20,10]" && o.high_diffusion_counts == "[]"));
    CHECK((o.low_guidances == "[1,2.5]" && o.high_guidances == "[3]" && o.least_guidance == 1.2));
    CHECK((o.low_forecast == 4 && o.high_forecast == 8 && o.forecast_order == 0));
    CHECK((o.forecast_first == 6 && o.forecast_last == 2 && o.guidance_interval == 3 && o.modulation_interval == 2));
    const himar_hi_mar_settings c = o.HiMarSettings::to_c();
    CHECK((c.forecast_order == 0 && std::string(c.low_diffusion_counts) == "[20,10]"));
    const auto said = [](const std::string& value) {
        return sentence_of<Refusal>([&] { read(R"({"labels": [1], )" + value + "}"); });
    };
    holds(said(R"("low_diffusion_counts": 20)"), "low_diffusion_counts is 20; it must be a list.");
    holds(said(R"("low_diffusion_counts": "20,10")"), "low_diffusion_counts is \"20,10\"; it must be a list.");
    holds(said(R"("high_diffusion_counts": [20, [1]])"), "high_diffusion_counts[1] is a list; it must be a whole number.");
    holds(said(R"("low_guidances": {})"), "low_guidances is an object; it must be a list.");
    holds(said(R"("high_guidances": [{}])"), "high_guidances[0] is an object; it must be a number.");
    holds(said(R"("least_guidance": "x")"), "least_guidance is \"x\"; it must be a number.");
    holds(said(R"("low_forecast": 1.5)"), "low_forecast is 1.5; it must be a whole number.");
    holds(said(R"("high_forecast": 0)"), "high_forecast is 0; it must be 1 to 1000.");
    holds(said(R"("guidance_interval": 9e99)"), "it must be 1 to 1000.");
    holds(said(R"("forecast_order": -1)"), "forecast_order is -1; it must be 0 to 2.");
    holds(said(R"("forecast_order": true)"), "forecast_order is true; it must be a whole number.");
    himar::GenerateOptions kept;
    kept.forecast_order = -1;
    CHECK(sentence_of<himar::Error>([&] { kept.HiMarSettings::to_c(); }) == "forecast_order is -1; ask for at least 0.");
    kept.forecast_order = 0, kept.low_forecast = 0;
    CHECK(sentence_of<himar::Error>([&] { kept.HiMarSettings::to_c(); }) == "low_forecast is 0; ask for at least 1.");
}

TEST_CASE("an hmar model has keys of its own") {
    const ImageRequest request = read(R"({"labels": [3], "guidance": 2.5, "top_k": 7, "top_p": 0.9, "mask_guidance": 0,
        "schedule": [[1], [1, 3]], "all_scales": false, "smooth": true})", 3, "hmar");
    const himar::GenerateOptions& o = request.options;
    CHECK((o.guidance == 2.5 && o.top_k == 7 && o.top_p == 0.9 && o.mask_guidance == 0.0));
    CHECK((o.schedule == "[[1],[1,3]]" && o.all_scales == false && o.smooth == true));
    holds(refusal_of_hmar(R"({"labels": [3], "low_steps": 2})"), "\"low_steps\" is not a key of a request; the keys are "
          "labels, seed, first_index, sampling, guidance, top_k, top_p, schedule, mask_guidance, all_scales, smooth, output.");
    holds(refusal_of_hmar(R"({"labels": [3], "schedule": [[1], 3]})"), "schedule is a list; it must be a list of counts for");
    holds(refusal_of_hmar(R"({"labels": [3], "schedule": [[[1]]]})"), "schedule is a list; it must be a list of counts for");
    holds(refusal_of_hmar(R"({"labels": [3], "top_k": 1.5})"), "top_k is 1.5; it must be a whole number.");
    holds(refusal_of_hmar(R"({"labels": [3], "top_k": -1})"), "top_k is -1; it must be at least 0.");
    holds(refusal_of_hmar(R"({"labels": [3], "top_k": 9e99})"), "top_k is ");
    holds(refusal_of_hmar(R"({"labels": [3], "top_p": "x"})"), "top_p is \"x\"; it must be a number.");
    holds(refusal_of_hmar(R"({"labels": [3], "smooth": 1})"), "smooth is 1; it must be true or false.");
}

TEST_CASE("labels are enough, and a seed that is not given is drawn anew within 53 bits") {
    const ImageRequest first = read(R"({"labels": [0]})"), second = read(R"({"labels": [0]})");
    CHECK(first.options.seed != second.options.seed);
    CHECK(first.options.seed < std::uint64_t{1} << 53);
    CHECK_FALSE(first.latents);
    CHECK_FALSE(first.options.guidance.has_value());
    CHECK_FALSE(first.options.sampling.has_value());
    CHECK(first.options.guidance_schedule == HIMAR_GUIDANCE_DEFAULT);
    CHECK((first.options.low_solver == HIMAR_SOLVER_DEFAULT && first.options.high_solver == HIMAR_SOLVER_DEFAULT));
}

TEST_CASE("a body that cannot be meant is refused with the key and the value") {
    const auto said = [](const std::string& body) { return sentence_of<Refusal>([&] { read(body); }); };
    holds(said(""), "the body is not valid JSON (byte 1); send for example");
    holds(said("{\"labels\": [1]"), "not valid JSON (byte 15)");
    holds(said("{\"labels\": [NaN]}"), "not valid JSON");
    holds(said("{\"sampling\": \"\xff\"}"), "the body is not UTF-8 (byte 15)");
    holds(said("{\"labels\": [1], \"guidance\": 1e999}"), "a number that is too large");
    holds(said("[1]"), "the body is a list; it must be a JSON object");
    holds(said(R"({"label": [1]})"), "\"label\" is not a key of a request; the keys are labels, seed,");
    holds(said("{}"), "the body lacks \"labels\"");
    holds(said(R"({"labels": 7})"), "labels is 7; give a list of class numbers, one per image.");
    holds(said(R"({"labels": [1, 2.0]})"), "label 2.0 (number 1 of the list) is not a class of this model; classes are "
                                           "the whole numbers 0 to 4.");
    holds(said(R"({"labels": [9223372036854775808]})"), "label 9223372036854775808 (number 0 of the list)");
    holds(said(R"({"labels": [1], "seed": -1})"), "seed is -1; it must be a whole number from 0 to 2^64-1.");
    holds(said(R"({"labels": [1], "seed": 18446744073709551616})"), "seed is 1.8446744073709552e+19;");
    holds(said(R"({"labels": [1], "first_index": -1})"), "first_index is -1; it must be 0 to 4294967295.");
    holds(said(R"({"labels": [1], "low_steps": null})"), "low_steps is null; it must be a whole number.");
    holds(said(R"({"labels": [1], "low_steps": 0})"), "low_steps is 0; it must be at least 1.");
    holds(said(R"({"labels": [1], "high_steps": 2147483648})"),
          "high_steps is 2147483648, but phase high has only 16 positions; ask for 1 to 16 steps.");
    holds(said(R"({"labels": [1], "low_diffusion_steps": 4294967298})"), "it must be 2 to 1000.");
    holds(said(R"({"labels": [1], "temperature": "1"})"), "temperature is \"1\"; it must be a number.");
    holds(said(R"({"labels": [1], "sampling": "default\u0000x"})"),
          "sampling is \"default\\u0000x\"; it must be the name");
    holds(said(R"({"labels": [1], "guidance_schedule": "cosine"})"),
          "guidance_schedule is 'cosine'; it must be 'linear' or 'constant'.");
    holds(said(R"({"labels": [1], "low_solver": "ddpm "})"), "low_solver is 'ddpm '; it must be 'ddpm', 'ddim' or 'dpm++'.");
    holds(said(R"({"labels": [1], "high_solver": 1})"), "high_solver is 1; it must be 'ddpm', 'ddim' or 'dpm++'.");
    holds(said(R"({"labels": [1], "output": {"a": 1}})"), "output is an object; it must be 'png' or 'latents'.");
    holds(said(R"({"labels": [1], "output": ")" + std::string(1000, 'x') + "\"}"), "xxx...");
}

TEST_CASE("nesting without end is refused, not followed") {
    const std::string deep(500000, '[');
    CHECK(code_of(deep) == 400);
    CHECK(code_of("{\"labels\": " + deep + std::string(deep.size(), ']') + "}") == 400);
    CHECK(code_of("{\"labels\": [1], \"low_guidances\": " + deep + std::string(deep.size(), ']') + "}") == 400);
}

TEST_CASE("prompts stand in place of labels where the model is from text") {
    const auto said = [](const std::string& body) { return sentence_of<Refusal>([&] { read_text(body); }); };
    CHECK(read_text(R"({"prompts": ["red", "\u00fc"]})").options.prompts == std::vector<std::string>{"red", "\xC3\xBC"});
    holds(said(R"({"prompts": []})"), "prompts is empty; give at least one text.");
    holds(said(R"({"prompts": "red"})"), "prompts is \"red\"; give a list of texts, one per image.");
    holds(said(R"({"prompts": ["red", 7]})"), "prompt 1 is 7, which is not text; write it as a string.");
    holds(said(R"({"prompts": ["a", "b", "c", "d"]})"), "prompts has 4 entries; ask for at most 3 images in one request.");
    holds(said("{}"), "the body lacks \"prompts\"; give a list of texts, one per image.");
    holds(said(R"({"labels": [1]})"), "labels is given, but this bundle's model makes images from text; give prompts.");
    holds(said(R"({"prompts": ["a"], "label": 1})"), "the keys are prompts, seed,");
    holds(sentence_of<Refusal>([] { read(R"({"prompts": ["a"]})"); }),
          "prompts is given, but this bundle's model makes images of classes; give labels.");
    holds(sentence_of<Refusal>([] { read_text(R"({"prompts": ["a"]})", false); }), "has no text_encoder, so it takes no prompts");
}

TEST_CASE("more labels than the limit are too large a request") {
    CHECK(code_of(R"({"labels": [1, 1, 1]})") == 200);
    CHECK(code_of(R"({"labels": [1, 1, 1, 1]})") == 413);
    CHECK(code_of(R"({"labels": [1, 1, 1, "x"]})") == 413);
}

TEST_CASE("the command line sets every limit, and says what is wrong with one") {
    const Arguments read = arguments({"bundle", "--host", "0.0.0.0", "--port", "0", "--lanes", "4", "--threads", "2",
                                      "--queue", "3", "--max-images", "5", "--max-body", "600", "--timeout", "0.5",
                                      "--drain-seconds", "0", "--device", "cpu", "--backend", "onnxruntime"});
    CHECK((read.bundle == "bundle" && read.host == "0.0.0.0" && read.port == 0 && read.lanes == 4 && read.queue == 3));
    CHECK((read.max_images == 5 && read.max_body == 600 && read.timeout == 0.5 && read.drain_seconds == 0));
    CHECK((read.load.threads == 2 && read.load.device == "cpu" && read.load.backend == "onnxruntime"));
    const auto said = [](std::vector<std::string> words) {
        return sentence_of<UsageError>([&] { arguments(std::move(words)); });
    };
    holds(said({}), "give one bundle");
    holds(said({"a", "b"}), "give one bundle");
    holds(said({"a", "--lanes", "0"}), "--lanes is '0'; it must be a whole number from 1 to 64.");
    holds(said({"a", "--port", "65536"}), "--port is '65536'");
    holds(said({"a", "--timeout", "0"}), "--timeout is '0'; it must be more than 0");
    holds(said({"a", "--timeout", "nan"}), "--timeout is 'nan'");
    holds(said({"a", "--drain-seconds", "-1"}), "--drain-seconds is '-1'; it must be from 0");
    holds(said({"a", "--lane", "2", "--nothing"}), "'--nothing' is not an option");
}

TEST_SUITE_END();
