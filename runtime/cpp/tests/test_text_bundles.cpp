// Bundles from text: prompts and contexts through both queues and the interface, and what is refused. That the images are
// Python's: tests/runtime/cpp/test_text_bundles.py.
#include <algorithm>
#include <fstream>

#include "api/prompts.h"
#include "error.h"
#include "lane_pair.h"

namespace {

const std::vector<std::string> kPrompts = {"red", "two red", ""};

// The rows of tokens and contexts of kPrompts.
struct Shown {
    explicit Shown(const Pair& pair) {
        Prompts prompts(std::make_shared<const Bundle>(Bundle::open(bundle("tiny-text"))));
        const std::vector<const char*> pointers = himar::c_prompts(kPrompts);
        tokens = prompts.read(pointers.data(), pointers.size()).tokens;
        Networks networks = load_networks(Bundle::open(bundle("tiny-text")), {"cpu", "", 1});
        const std::int64_t K = pair.model().buffer, W = pair.model().context_width, B = 3;
        contexts.resize(static_cast<std::size_t>(B * K * W));
        std::vector<long long> ids(tokens.begin(), tokens.end());
        networks.need("text_encoder")->run({{"tokens", ids.data(), {B, K}}, {"context", contexts.data(), {B, K, W}}});
    }
    Chunk of_prompts() const { return chunk_of({-1, -1, -1}, 4, 9, nullptr, nullptr, {tokens.data(), nullptr}); }
    Chunk of_contexts() const { return chunk_of({-1, -1, -1}, 4, 9, nullptr, nullptr, {nullptr, contexts.data()}); }

    std::vector<std::int64_t> tokens;
    std::vector<float> contexts;
};

himar::GenerateOptions prompts_of(std::vector<std::string> prompts) {
    himar::GenerateOptions options = options_of({});
    options.prompts = std::move(prompts);
    return options;
}

std::string refusal(himar::Pipeline& pipeline, const himar::GenerateOptions& options) {
    const std::string said = sentence_of<himar::Error>([&] { pipeline.generate(options); });
    CHECK(said == sentence_of<himar::Error>([&] { pipeline.check_options(options); }));
    return said;
}

}  // namespace

TEST_SUITE("text_bundles") {
    TEST_CASE("prompts and their contexts give the same images on both queues") {
        Pair pair("tiny-text");
        const Shown shown(pair);
        for (const Sampling& sampling : settings()) {
            const Made wanted = pair.on_host(shown.of_contexts(), sampling);
            same(pair.on_host(shown.of_prompts(), sampling), wanted);
            same(pair.on_device(shown.of_prompts(), sampling), wanted);
            same(pair.on_device(shown.of_contexts(), sampling), wanted);
        }
    }

    TEST_CASE("nothing waits for the device before the end, the text encoder's contexts neither") {
        Pair pair("tiny-text");
        const Shown shown(pair);
        pair.on_device(shown.of_prompts(), guided());
        const auto& trace = pair.device->trace;
        CHECK(pair.device->count("wait") == 0);
        CHECK(pair.device->count("synchronize") == 0);
        CHECK(pair.device->count("text_encoder") == 1);
        const auto first = std::find(trace.begin(), trace.end(), "text_encoder");
        CHECK(std::count(first, trace.end(), "upload") == 0);
    }

    TEST_CASE("a text encoder that gives no numbers is named") {
        Pair pair("nan-text_encoder");
        const Shown shown(pair);
        const std::string said = sentence_of<EngineError>([&] { pair.on_device(shown.of_prompts(), guided()); });
        CHECK(said == sentence_of<EngineError>([&] { pair.on_host(shown.of_prompts(), guided()); }));
        holds(said, "text_encoder returned values that are not finite;");
        same(pair.on_device(shown.of_contexts(), guided()), pair.on_host(shown.of_contexts(), guided()));
    }

    TEST_CASE("the interface says what a model takes") {
        const himar_pipeline_info text = load(bundle("tiny-text")).info(), classes = load().info();
        CHECK(text.context_length == 6);
        CHECK(text.context_width == 5);
        CHECK(text.takes_prompts == 1);
        CHECK(text.classes == 0);
        CHECK(classes.context_length == 0);
        CHECK(classes.takes_prompts == 0);
        CHECK(load(bundle("contexts-alone")).info().takes_prompts == 0);
        CHECK(himar::Tokenizer::open(bundle("tiny-text").string()).info().length == 6);
        CHECK(holds(sentence_of<himar::Error>([] { himar::Tokenizer::open(bundle("tiny").string()); }),
                    "has no tokenizer: it takes class numbers or contexts; one of a model from text takes prompts"));
    }

    TEST_CASE("prompts make images with recipes, in chunks too, and those that are cut are named") {
        himar::Pipeline pipeline = load(bundle("tiny-text"));
        const std::vector<std::string> prompts = {"red", "two two two two red", "\xF0\x9F\x98\x80", "", "red"};
        const himar::Result result = pipeline.generate(prompts_of(prompts));
        CHECK(result.images().shape()[0] == 5);  // max_batch is 4
        CHECK(result.truncated() == std::vector<std::size_t>{1});
        CHECK(values(result.labels()) == std::vector<std::int64_t>(5, -1));
        const Json recipe = Json::parse(result.recipe(2));
        CHECK(recipe["prompt"] == prompts[2]);
        CHECK(recipe["label"].is_null());
        CHECK(recipe.count("context_sha256") == 0);
        CHECK(result.recipe(2).find("\\ud83d\\ude00") != std::string::npos);  // PNG's text chunks are not UTF-8
        himar::GenerateOptions alone = prompts_of({"red"});
        alone.first_index = 4;
        CHECK(relative(values(pipeline.generate(alone).latents()), values(result.latents().image(4))) <= kSameEngines);
    }

    TEST_CASE("contexts need no text encoder") {
        himar::Pipeline pipeline = load(bundle("contexts-alone"));
        himar::GenerateOptions options = options_of({});
        options.contexts.assign(2 * 6 * 5, 0.25f);
        const himar::Result result = pipeline.generate(options);
        CHECK(result.latents().shape()[0] == 2);
        CHECK(Json::parse(result.recipe(1))["context_sha256"].get<std::string>().size() == 64);
        CHECK(holds(refusal(pipeline, prompts_of({"red"})),
                    "has no text_encoder, so it takes contexts, not prompts; give contexts, or build it again with --text."));
    }

    TEST_CASE("what a model does not take is refused") {
        himar::Pipeline text = load(bundle("tiny-text")), classes = load();
        CHECK(refusal(text, options_of({})) == "nothing is given to say what to generate; give prompts, or contexts, as this "
                                               "bundle's model takes them.");
        CHECK(refusal(text, options_of({1})) ==
              "labels are given, but this bundle's model makes images from text; give prompts, or contexts.");
        himar::GenerateOptions both = prompts_of({"red"});
        both.labels = {1};
        CHECK(holds(refusal(text, both), "labels and prompts are given to say what to generate"));
        CHECK(refusal(classes, prompts_of({"red"})) ==
              "prompts are given, but this bundle's model makes images of classes; give labels.");
        CHECK(holds(refusal(text, prompts_of({"a <|endoftext|>"})), "prompt 0 holds <|endoftext|>"));
        CHECK(holds(refusal(text, prompts_of({"\xFF"})), "prompt 0 is not UTF-8 (byte 0)"));
        CHECK(sentence_of<himar::Error>([&] { text.generate(prompts_of({"red", std::string("a\0b", 3)})); }) ==
              "prompt 1 holds a NUL character, which ends a text in C; leave it out.");
        himar::GenerateOptions contexts = options_of({});
        contexts.contexts.assign(29, 0);
        CHECK(holds(refusal(text, contexts), "contexts holds 29 numbers; give float32 (images, 6, 5)"));
        contexts.contexts.assign(60, 0);
        contexts.contexts[30] = NAN;
        CHECK(refusal(text, contexts) == "context 1 holds values that are not finite; compute it again.");
        CHECK(holds(sentence_of<himar::Error>([&] { text.class_name(0); }), "so there are no classes"));
    }

    TEST_CASE("programs compiled with earlier headers keep working") {
        himar::Pipeline pipeline = load();
        himar_generate_params params;
        REQUIRE(himar_generate_params_init(&params) == HIMAR_OK);
        const std::int64_t label = 1;
        params.labels = &label, params.label_count = 1;
        for (const std::size_t size : {offsetof(himar_generate_params, prompts), offsetof(himar_generate_params, hmar)}) {
            params.struct_size = size;
            CHECK(himar_pipeline_check(pipeline.get(), &params) == HIMAR_OK);
        }
        himar_pipeline_info info{};
        info.struct_size = offsetof(himar_pipeline_info, context_length);
        CHECK(himar_pipeline_get_info(pipeline.get(), &info) == HIMAR_OK);
    }

    TEST_CASE("a damaged manifest is refused") {
        const auto refused = [](const std::function<void(Json&)>& change, const std::string& part) {
            const Copy copy("tiny-text");
            copy.edit(change);
            holds(sentence_of<himar::Error>([&] { load(copy.path()).generate(prompts_of({"red"})); }), part);
        };
        refused([](Json& m) { m["model"].erase("empty_context"); }, "lacks model.empty_context");
        refused([](Json& m) { m["model"]["classes"] = 3; }, "model.classes is 3, but model.context is 'text'");
        refused([](Json& m) { m["model"]["context"] = "image"; }, "model.context is 'image'; this himar knows 'class', 'text'");
        refused([](Json& m) { m["model"].erase("context_width"); }, "lacks model.context_width");
        refused([](Json& m) { m["model"]["empty_context"]["sha256"] = "0"; }, "model.empty_context.sha256 is not the sha256");
        refused([](Json& m) { m["model"]["empty_context"]["file"] = "../x"; }, "leads out of the bundle");
        refused([](Json& m) { m["model"]["empty_context"]["file"] = "x"; }, "names x, but gives no hash");
        refused([](Json& m) { m["model"]["context_width"] = 6; }, "has 120 bytes, but model.empty_context of shape (6, 6) takes 144");
        refused([](Json& m) { m.erase("tokenizer"); }, "has a text_encoder, but lacks tokenizer");
        refused([](Json& m) { m["tokenizer"]["length"] = 7; }, "tokenizer.length is 7, but the model takes contexts of 6 rows");
        refused([](Json& m) { m["tokenizer"]["sha256"]["merges"] = "0"; }, "tokenizer.sha256.merges is not the sha256 of");
        refused([](Json& m) { m["files"].erase("tokenizer/merges.txt"); }, "names tokenizer/merges.txt, but gives no hash");
        refused([](Json& m) { m["tokenizer"]["start"] = 7; }, "its tokenizer is none: start and end are [7,");
        refused([](Json& m) { m["tokenizer"]["padding"] = 9999; }, "and padding 9999; build the bundle again.");
        refused([](Json& m) { m["tokenizer"]["repairs_text"] = true; }, "repairs text with the Python library ftfy");
        refused([](Json& m) { m["schema_version"] = "6.0"; }, "has schema version 6.0, but this himar reads versions up to 5.x");
    }
}
