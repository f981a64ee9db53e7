// The C interface's own promises: statuses, sentences, struct sizes, untouched outputs.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "bundles.h"
#include "himar/himar.h"
#include "seed_draws.h"

namespace {

struct Loaded {
    himar_pipeline* pipeline = nullptr;
    explicit Loaded(const std::string& name = "tiny") {
        himar_load_params params;
        himar_load_params_init(&params);
        params.threads = 1;
        REQUIRE(himar_pipeline_load(bundle(name).c_str(), &params, &pipeline) == HIMAR_OK);
    }
    ~Loaded() { himar_pipeline_free(pipeline); }
};

const std::int64_t kLabels[] = {1, 2};

himar_generate_params params_of(std::size_t count = 2) {
    himar_generate_params params;
    himar_generate_params_init(&params);
    params.labels = kLabels;
    params.label_count = count;
    return params;
}

himar_hi_mar_settings settings_of() {
    himar_hi_mar_settings settings;
    himar_hi_mar_settings_init(&settings);
    return settings;
}

// The sentence of a generation that is refused as an input, by a check beforehand too; the output must stay untouched.
std::string refused(himar_pipeline* pipeline, const himar_generate_params& params) {
    auto* const marker = reinterpret_cast<himar_result*>(&pipeline);
    himar_result* result = marker;
    CHECK(himar_pipeline_generate(pipeline, &params, &result) == HIMAR_ERROR_INPUT);
    CHECK(result == marker);
    const std::string sentence = himar_last_error();
    CHECK(himar_pipeline_check(pipeline, &params) == HIMAR_ERROR_INPUT);
    CHECK(sentence == himar_last_error());
    return sentence;
}

}  // namespace

TEST_SUITE_BEGIN("interface");

TEST_CASE("every status has a name, and the library says what it is") {
    for (int status = HIMAR_OK; status <= HIMAR_ERROR_INTERNAL; ++status)
        CHECK(std::string(himar_status_to_string(static_cast<himar_status>(status))).rfind("HIMAR_", 0) == 0);
    CHECK(std::string(himar_status_to_string(static_cast<himar_status>(99))) == "unknown status");
    CHECK(himar_interface_version() == HIMAR_INTERFACE_VERSION);
    holds(himar_build_info(), std::string("himar ") + himar_version() + "; engines: onnxruntime ");
}

TEST_CASE("classes have names where the manifest has them") {
    const char* const marker = "untouched";
    const char* name = marker;
    const Loaded nameless;
    CHECK(himar_pipeline_get_class_name(nameless.pipeline, 4, &name) == HIMAR_OK);
    CHECK(name == nullptr);
    const Copy copy;
    copy.edit([](Json& m) { m["model"]["class_names"] = {"a", "b", "", "d", "tench, Tinca tinca"}; });
    himar_pipeline* pipeline = nullptr;
    REQUIRE(himar_pipeline_load(copy.path().c_str(), nullptr, &pipeline) == HIMAR_OK);
    CHECK(himar_pipeline_get_class_name(pipeline, 4, &name) == HIMAR_OK);
    CHECK(std::string(name) == "tench, Tinca tinca");
    name = marker;
    for (const std::int64_t none : {std::int64_t{-1}, std::int64_t{5}, std::int64_t{1} << 40}) {
        CHECK(himar_pipeline_get_class_name(pipeline, none, &name) == HIMAR_ERROR_INPUT);
        holds(himar_last_error(), "label is " + std::to_string(none) + "; classes are the whole numbers 0 to 4.");
    }
    CHECK(name == marker);
    CHECK(himar_pipeline_get_class_name(nullptr, 0, &name) == HIMAR_ERROR_INPUT);
    CHECK(himar_pipeline_get_class_name(pipeline, 0, nullptr) == HIMAR_ERROR_INPUT);
    himar_pipeline_free(pipeline);
}

TEST_CASE("requests out of range are refused with the value") {
    Loaded loaded;
    const auto said = [&](auto change) {
        himar_generate_params params = params_of();
        change(params);
        return refused(loaded.pipeline, params);
    };
    const auto set = [&](auto change) {
        himar_hi_mar_settings settings = settings_of();
        change(settings);
        himar_generate_params params = params_of();
        params.hi_mar = &settings;
        return refused(loaded.pipeline, params);
    };
    CHECK(said([](auto& p) { p.label_count = 0; }) == "labels is empty; give at least one class number.");
    CHECK(said([](auto& p) { p.labels = nullptr; }) == "labels is empty; give at least one class number.");
    const std::int64_t beyond[] = {1, 5};
    CHECK(said([&](auto& p) { p.labels = beyond; }) ==
          "label 5 (number 1 of the list) is not a class of this model; classes are the whole numbers 0 to 4.");
    holds(said([](auto& p) { p.first_index = 4294967295u; }), "first_index is 4294967295; it must be 0 to 4294967294.");
    const std::uint64_t seeds[] = {1, 2, 3};
    const std::uint32_t indices[] = {1, 2, 3};
    const auto of_seeds = [&](auto& p) { p.seeds = seeds, p.seed_count = 2; };
    CHECK(said([&](auto& p) { of_seeds(p), p.seed = 4; }) == "both seeds and seed are given; give one of them.");
    CHECK(said([&](auto& p) { of_seeds(p), p.seed_count = 3; }) == "3 seeds are given for 2 images; give one for each.");
    CHECK(said([&](auto& p) { p.seed_count = 2; }) == "0 seeds are given for 2 images; give one for each.");
    CHECK(said([&](auto& p) { p.seeds = seeds; }) == "0 seeds are given for 2 images; give one for each.");
    CHECK(said([&](auto& p) { p.indices = indices, p.index_count = 1; }) == "1 indices are given for 2 images; give one for each.");
    CHECK(said([&](auto& p) { p.indices = indices, p.index_count = 2, p.first_index = 5; }) ==
          "both indices and first_index are given; give one of them.");
    holds(said([&](auto& p) { of_seeds(p), p.first_index = 4294967296u; }), "first_index is 4294967296; it must be 0 to 4294967295.");
    SeedDraws seeded(0);
    const himar_draws draws = c_draws(seeded);
    CHECK(said([&](auto& p) { of_seeds(p), p.draws = &draws; }) == "both seeds and draws are given; give one of them.");
    CHECK(said([](auto& p) { p.sampling = "best"; }) == "sampling 'best' is not in this bundle; it has default, plain.");
    holds(set([](auto& p) { p.guidance = 1e300; }), "low_guidance is 1e+300; it must be a number from 0 to 1000000.");
    holds(set([](auto& p) { p.guidance = -1; }), "low_guidance is -1.0; it must be a number from 0 to 1000000.");
    holds(set([](auto& p) { p.temperature = std::numeric_limits<double>::infinity(); }), "temperature is inf;");
    holds(set([](auto& p) { p.low_steps = 5; }), "low_steps is 5, but phase low has only 4 positions");
    holds(set([](auto& p) { p.high_steps = -1; }), "high_steps is -1; it must be at least 1.");
    holds(set([](auto& p) { p.low_diffusion_steps = 1; }), "low_diffusion_steps is 1; it must be 2 to 1000.");
    holds(set([](auto& p) { p.guidance_schedule = static_cast<himar_guidance_schedule>(9); }), "guidance_schedule is 9;");
    holds(set([](auto& p) { p.low_solver = static_cast<himar_solver>(4); }), "low_solver is 4; it must be HIMAR_SOLVER_DDPM,");
    holds(set([](auto& p) { p.high_solver = static_cast<himar_solver>(-1); }), "high_solver is -1; it must be HIMAR_SOLVER_DDPM,");
    holds(set([](auto& p) { p.high_forecast = -1; }), "high_forecast is -1; it must be 1 to 1000.");
    holds(set([](auto& p) { p.guidance_interval = 1001; }), "guidance_interval is 1001; it must be 1 to 1000.");
    holds(set([](auto& p) { p.modulation_interval = 1001; }), "modulation_interval is 1001; it must be 1 to 1000.");
    CHECK(set([](auto& p) { p.modulation_interval = 3; }) ==
          "modulation_interval is 3, but this bundle has no dit_head_modulations; build it with --held-modulations, or leave "
          "the setting out.");
    holds(set([](auto& p) { p.forecast_order = 0; }), "forecast_order is 0, but no phase is forecast; set low_forecast or");
    holds(set([](auto& p) { p.forecast_order = -2; }), "forecast_order is -2; it must be 0 to 2.");
    holds(set([](auto& p) { p.high_forecast = 5, p.forecast_order = 2; }), "high_forecast is 5 and forecast_order is 2, which");
    holds(set([](auto& p) { p.least_guidance = -1; }), "least_guidance is -1.0; it must be a number from 0 to 1000000.");
    holds(set([](auto& p) { p.low_steps = 2, p.low_diffusion_counts = "[9]"; }),
          "low_diffusion_counts has 1 count, but low_steps is 2; give one for each step.");
    holds(set([](auto& p) { p.low_steps = 2, p.low_diffusion_counts = "[9, 1]"; }), "low_diffusion_counts[1] is 1; it must be 2");
    holds(set([](auto& p) { p.low_diffusion_counts = "[9, 8.5]"; }), "low_diffusion_counts[1] is 8.5; it must be a whole number.");
    holds(set([](auto& p) { p.high_guidances = "3"; }), "high_guidances is 3; it must be a list.");
    for (const char* const none : {"", "[1,", "1,2", "[[[[[[[[[[1]]]]]]]]]]"})
        holds(set([&](auto& p) { p.high_guidances = none; }), "; it must be a list in JSON, for example [250, 50] of two steps.");
    holds(set([](auto& p) { p.low_solver = p.high_solver = HIMAR_SOLVER_DPMPP, p.temperature = 0.5; }),
          "temperature is 0.5, but it scales the noise of reverse steps and solver 'dpm++' adds none; set it to 1, or");
    holds(said([](auto& p) { p.struct_size = 0; }), "himar_generate_params.struct_size is 0; it must be ");
    for (const int change : {1, -1, 8}) {
        const auto resize = [&](auto& p) { p.struct_size += static_cast<std::size_t>(change); };
        holds(said(resize), "call himar_generate_params_init first");
        holds(set(resize), "call himar_hi_mar_settings_init first");
    }
}

TEST_CASE("settings of earlier headers are taken, and what those lacked is not read") {
    Loaded loaded;
    himar_hi_mar_settings settings = settings_of();
    settings.low_steps = 2;
    himar_generate_params params = params_of(1);
    params.hi_mar = &settings;
    std::vector<char> whole(2048), earlier(2048);
    REQUIRE(himar_generate_params_to_string(&params, whole.data(), whole.size(), nullptr) == HIMAR_OK);
    for (const std::size_t size :
         {offsetof(himar_hi_mar_settings, modulation_interval), offsetof(himar_hi_mar_settings, low_diffusion_counts)}) {
        settings.struct_size = size;
        std::memset(reinterpret_cast<char*>(&settings) + size, 0x5A, sizeof settings - size);
        REQUIRE(himar_generate_params_to_string(&params, earlier.data(), earlier.size(), nullptr) == HIMAR_OK);
        CHECK(earlier == whole);  // above all no forecast_order of 0
        REQUIRE(himar_pipeline_check(loaded.pipeline, &params) == HIMAR_OK);
    }
}

TEST_CASE("a list is taken away by another one, by an empty one, and by a change to what it stands in place of") {
    const Copy copy;
    copy.edit([](Json& m) {
        m["sampling"]["default"] = {{"low_steps", 2}, {"high_steps", 2}, {"low_diffusion_steps", 9},
                                    {"high_diffusion_steps", 8}, {"low_diffusion_counts", {3, 4}},
                                    {"high_diffusion_counts", {5, 6}}, {"low_guidances", {1, 2}}, {"high_guidances", {3, 4}}};
    });
    himar_pipeline* pipeline = nullptr;
    REQUIRE(himar_pipeline_load(copy.path().c_str(), nullptr, &pipeline) == HIMAR_OK);
    const auto lists_after = [&](auto change) {
        himar_hi_mar_settings settings = settings_of();
        change(settings);
        himar_generate_params params = params_of(1);
        params.hi_mar = &settings;
        himar_result* result = nullptr;
        REQUIRE(himar_pipeline_generate(pipeline, &params, &result) == HIMAR_OK);
        const char* recipe = nullptr;
        REQUIRE(himar_result_recipe(result, 0, &recipe) == HIMAR_OK);
        const Json sampling = Json::parse(recipe)["sampling"];
        himar_result_free(result);
        std::vector<std::string> lists;
        for (const char* name : {"low_diffusion_counts", "high_diffusion_counts", "low_guidances", "high_guidances"})
            if (sampling.contains(name)) lists.push_back(sampling[name].dump());
        return lists;
    };
    using Lists = std::vector<std::string>;
    CHECK(lists_after([](auto& s) { s.temperature = 0.9; }) == Lists{"[3,4]", "[5,6]", "[1.0,2.0]", "[3.0,4.0]"});
    CHECK(lists_after([](auto& s) { s.low_diffusion_counts = "[7, 3]"; }) == Lists{"[7,3]", "[5,6]", "[1.0,2.0]", "[3.0,4.0]"});
    CHECK(lists_after([](auto& s) { s.low_diffusion_counts = "[]"; }) == Lists{"[5,6]", "[1.0,2.0]", "[3.0,4.0]"});
    CHECK(lists_after([](auto& s) { s.low_diffusion_steps = 9; }) == Lists{"[5,6]", "[1.0,2.0]", "[3.0,4.0]"});
    CHECK(lists_after([](auto& s) { s.high_diffusion_steps = 9; }) == Lists{"[3,4]", "[1.0,2.0]", "[3.0,4.0]"});
    CHECK(lists_after([](auto& s) { s.low_guidance = 2; }) == Lists{"[3,4]", "[5,6]", "[3.0,4.0]"});
    CHECK(lists_after([](auto& s) { s.high_guidance = 2; }) == Lists{"[3,4]", "[5,6]", "[1.0,2.0]"});
    CHECK(lists_after([](auto& s) { s.guidance = 2; }) == Lists{"[3,4]", "[5,6]"});
    CHECK(lists_after([](auto& s) { s.guidance_schedule = HIMAR_GUIDANCE_LINEAR; }) == Lists{"[3,4]", "[5,6]"});
    CHECK(lists_after([](auto& s) { s.guidance = 2, s.high_guidances = "[1, 2]"; }) == Lists{"[3,4]", "[5,6]", "[1.0,2.0]"});
    himar_pipeline_free(pipeline);
}

TEST_CASE("structs of an earlier header of this interface are taken, and what it lacked is not read") {
    Loaded loaded;
    himar_generate_params params;
    himar_generate_params_init(&params);
    const std::int64_t label = 1;
    params.labels = &label, params.label_count = 1;
    params.struct_size = offsetof(himar_generate_params, hmar);
    params.hmar = reinterpret_cast<const himar_hmar_settings*>(1);
    params.seeds = reinterpret_cast<const std::uint64_t*>(1);
    SeedDraws seeded(0);
    himar_draws draws = c_draws(seeded);
    draws.struct_size = offsetof(himar_draws, uniforms);
    draws.uniforms = reinterpret_cast<decltype(draws.uniforms)>(1);
    params.draws = &draws;
    REQUIRE(himar_pipeline_check(loaded.pipeline, &params) == HIMAR_OK);
    himar_result* result = nullptr;
    REQUIRE(himar_pipeline_generate(loaded.pipeline, &params, &result) == HIMAR_OK);
    himar_result_free(result);
    CHECK(seeded.asked > 0);
    params.hmar = nullptr;
    for (const std::size_t size : {offsetof(himar_generate_params, prompts), offsetof(himar_generate_params, seeds)}) {
        params.struct_size = size;
        CHECK(himar_pipeline_check(loaded.pipeline, &params) == HIMAR_OK);
    }
    --draws.struct_size;
    CHECK(himar_pipeline_check(loaded.pipeline, &params) == HIMAR_ERROR_INPUT);
    holds(himar_last_error(), "set it to sizeof(himar_draws).");
}

TEST_CASE("loading says what cannot be had, before it opens anything") {
    himar_pipeline* pipeline = nullptr;
    const auto said = [&](himar_status status, auto change) -> std::string {
        himar_load_params params;
        himar_load_params_init(&params);
        change(params);
        CHECK(himar_pipeline_load(bundle("tiny").c_str(), &params, &pipeline) == status);
        CHECK(pipeline == nullptr);
        return himar_last_error();
    };
    holds(said(HIMAR_ERROR_ENGINE, [](auto& p) { p.device = "cuda:99"; }), "cuda:99 is not a GPU that can be used here: ");
    holds(said(HIMAR_ERROR_ENGINE, [](auto& p) { p.device = "gpu"; }), "device is 'gpu'; it must be 'cpu', 'cuda' or 'cuda:N'");
    holds(said(HIMAR_ERROR_ENGINE, [](auto& p) { p.backend = "tensorrt"; }), "has an engine for 'onnxruntime', not for 'tensorrt'");
    holds(said(HIMAR_ERROR_INPUT, [](auto& p) { p.threads = -2; }), "threads is -2;");
    holds(said(HIMAR_ERROR_INPUT, [](auto& p) { p.struct_size = 7; }), "himar_load_params.struct_size is 7;");
    CHECK(himar_pipeline_load("/nowhere", nullptr, &pipeline) == HIMAR_ERROR_BUNDLE);
    holds(himar_last_error(), "/nowhere is not a folder");
}

TEST_CASE("NULL is an input error wherever it cannot be meant") {
    Loaded loaded;
    himar_pipeline* pipeline = nullptr;
    himar_result* result = nullptr;
    himar_pipeline_info info{};
    info.struct_size = sizeof info;
    const himar_generate_params params = params_of(1);
    REQUIRE(himar_pipeline_check(loaded.pipeline, &params) == HIMAR_OK);
    REQUIRE(himar_pipeline_generate(loaded.pipeline, &params, &result) == HIMAR_OK);
    const std::uint8_t* pixels;
    const float* floats;
    std::int64_t shape[4];
    std::size_t needed = 0;
    const char* json;
    for (const himar_status status : {
             himar_load_params_init(nullptr), himar_generate_params_init(nullptr), himar_hi_mar_settings_init(nullptr),
             himar_pipeline_load(nullptr, nullptr, &pipeline), himar_pipeline_load("x", nullptr, nullptr),
             himar_pipeline_clone(nullptr, &pipeline), himar_pipeline_clone(loaded.pipeline, nullptr),
             himar_pipeline_get_info(nullptr, &info), himar_pipeline_get_info(loaded.pipeline, nullptr),
             himar_pipeline_check(nullptr, &params), himar_pipeline_check(loaded.pipeline, nullptr),
             himar_pipeline_generate(nullptr, &params, &result), himar_pipeline_generate(loaded.pipeline, nullptr, &result),
             himar_pipeline_generate(loaded.pipeline, &params, nullptr), himar_result_images(nullptr, &pixels, shape),
             himar_result_images(result, nullptr, shape), himar_result_images(result, &pixels, nullptr),
             himar_result_latents(result, nullptr, shape), himar_result_low_latents(result, &floats, nullptr),
             himar_result_labels(result, nullptr, nullptr), himar_result_recipe(result, 0, nullptr),
             himar_result_recipe(result, 1, &json), himar_result_seconds(nullptr, nullptr, nullptr),
             himar_generate_params_to_string(nullptr, nullptr, 0, &needed),
             himar_generate_params_to_string(&params, nullptr, 5, &needed),
         })
        CHECK(status == HIMAR_ERROR_INPUT);
    CHECK(himar_result_seconds(result, nullptr, nullptr) == HIMAR_OK);
    CHECK(himar_pipeline_free(nullptr) == HIMAR_OK);
    CHECK(himar_result_free(nullptr) == HIMAR_OK);
    himar_result_free(result);
}

TEST_CASE("from its own callback a pipeline neither generates nor is freed") {
    Loaded loaded;
    struct Seen {
        himar_pipeline* pipeline;
        std::vector<std::string> sentences;
    } seen{loaded.pipeline, {}};
    himar_generate_params params = params_of(1);
    params.user = &seen;
    params.on_step = [](const himar_progress* progress, void* user) {
        auto* const s = static_cast<Seen*>(user);
        CHECK(progress->struct_size == sizeof(himar_progress));
        himar_generate_params again = params_of(1);
        himar_result* result = nullptr;
        CHECK(himar_pipeline_generate(s->pipeline, &again, &result) == HIMAR_ERROR_INPUT);
        s->sentences.emplace_back(himar_last_error());
        CHECK(himar_pipeline_free(s->pipeline) == HIMAR_ERROR_INPUT);
        s->sentences.emplace_back(himar_last_error());
        return 0;
    };
    himar_result* result = nullptr;
    CHECK(himar_pipeline_generate(loaded.pipeline, &params, &result) == HIMAR_CANCELLED);
    himar_result_free(result);
    REQUIRE(seen.sentences.size() == 2);
    holds(seen.sentences[0], "generate was called from its own step callback; call it on a clone instead.");
    holds(seen.sentences[1], "himar_pipeline_free was called from the pipeline's own step callback");
}

TEST_CASE("a pipeline says what its model is") {
    Loaded loaded;
    himar_pipeline_info info{};
    info.struct_size = sizeof info;
    REQUIRE(himar_pipeline_get_info(loaded.pipeline, &info) == HIMAR_OK);
    CHECK(info.classes == 5);
    CHECK(info.image_size == 16);
    CHECK(info.latent_size == 4);
    CHECK(info.low_latent_size == 2);
    CHECK(info.channels == 2);
    CHECK(info.max_batch == 4);
    CHECK(info.has_decoder == 1);
    CHECK(std::strlen(info.bundle_id) == 64);
    CHECK(std::string(info.sampling) == "default, plain");
    CHECK(std::string(info.family) == "hi_mar");
    CHECK(std::string(info.stages) == "low, high");
    for (const std::size_t size : {std::size_t{4}, sizeof info + 8}) {
        info.struct_size = size;
        CHECK(himar_pipeline_get_info(loaded.pipeline, &info) == HIMAR_ERROR_INPUT);
    }
}

TEST_CASE("of an info of an earlier header only what it has is written") {
    Loaded loaded;
    himar_pipeline_info info;
    std::memset(static_cast<void*>(&info), 0x5A, sizeof info);
    info.struct_size = offsetof(himar_pipeline_info, family);
    REQUIRE(himar_pipeline_get_info(loaded.pipeline, &info) == HIMAR_OK);
    CHECK(info.struct_size == offsetof(himar_pipeline_info, family));
    CHECK(info.classes == 5);
    CHECK(std::string(info.sampling) == "default, plain");
    const char* const bytes = reinterpret_cast<const char*>(&info);
    CHECK(std::all_of(bytes + info.struct_size, bytes + sizeof info, [](char byte) { return byte == 0x5A; }));
}

TEST_CASE("parameters as text, whole or cut off") {
    himar_generate_params params = params_of();
    himar_hi_mar_settings settings = settings_of();
    settings.guidance = 2.5;
    settings.low_steps = 3;
    settings.high_solver = HIMAR_SOLVER_DPMPP;
    settings.high_guidances = "[1, 2.5]";
    settings.low_forecast = 4, settings.forecast_order = 0;
    params.hi_mar = &settings;
    std::size_t needed = 0;
    REQUIRE(himar_generate_params_to_string(&params, nullptr, 0, &needed) == HIMAR_OK);
    std::vector<char> text(needed);
    REQUIRE(himar_generate_params_to_string(&params, text.data(), text.size(), nullptr) == HIMAR_OK);
    CHECK(std::strlen(text.data()) + 1 == needed);
    holds(text.data(), "labels=[1,2] seed=0 first_index=0 sampling=first guidance=2.5 low_steps=3 high_steps=setting");
    holds(text.data(), " low_solver=setting high_solver=dpm++ low_diffusion_counts=setting high_diffusion_counts=setting "
                       "low_guidances=setting high_guidances=[1, 2.5] least_guidance=setting low_forecast=4 "
                       "high_forecast=setting forecast_order=0 forecast_first=setting forecast_last=setting "
                       "guidance_interval=setting modulation_interval=setting on_step=none draws=the seed's");
    const std::uint64_t seeds[] = {5, 6};
    params.seeds = seeds, params.seed_count = 2;
    char more[2000];
    REQUIRE(himar_generate_params_to_string(&params, more, sizeof more, nullptr) == HIMAR_OK);
    holds(more, "draws=the seed's seeds=2");
    params.seeds = nullptr, params.seed_count = 0;
    char cut[9];
    REQUIRE(himar_generate_params_to_string(&params, cut, sizeof cut, nullptr) == HIMAR_OK);
    CHECK(std::string(cut) == "labels=[");
    himar_load_params load;
    himar_load_params_init(&load);
    char whole[64];
    REQUIRE(himar_load_params_to_string(&load, whole, sizeof whole, &needed) == HIMAR_OK);
    CHECK(std::string(whole) == "device='cpu' backend=the bundle's threads=all");
}

TEST_CASE("a manifest that says other sizes than the graphs is an engine error, never a write out of bounds") {
    const auto said = [](auto change) -> std::string {
        Copy copy;
        copy.edit(change);
        himar_pipeline* pipeline = nullptr;
        const himar_status loaded = himar_pipeline_load(copy.path().c_str(), nullptr, &pipeline);
        if (loaded != HIMAR_OK) return himar_last_error();
        const himar_generate_params params = params_of();
        himar_result* result = nullptr;
        const himar_status status = himar_pipeline_generate(pipeline, &params, &result);
        CHECK((status == HIMAR_ERROR_ENGINE));
        himar_result_free(result);
        himar_pipeline_free(pipeline);
        return himar_last_error();
    };
    holds(said([](Json& m) { m["model"]["width"] = 2; }), "transformer_low failed on cpu: ");
    holds(said([](Json& m) { m["model"]["channels"] = 1; }), "transformer_low failed on cpu: ");
    holds(said([](Json& m) { m["model"]["cond_scale"] = 1, m["sampling"]["default"]["low_steps"] = 1; }), "failed on cpu: ");
    holds(said([](Json& m) { m["model"]["buffer"] = 1; }), "transformer_low failed on cpu: ");
    holds(said([](Json& m) { m["model"]["img_size"] = 12; }), "failed on cpu: ");
    holds(said([](Json& m) { m["model"]["img_size"] = 32, m["model"]["vae_stride"] = 8; }), "vae_decoder failed on cpu: ");
    holds(said([](Json& m) { m["model"]["img_size"] = 8, m["model"]["vae_stride"] = 2; }), "vae_decoder failed on cpu: ");
    holds(said([](Json& m) { m["model"]["classes"] = 500; }), "transformer_low failed on cpu: ");
    holds(said([](Json& m) { m["components"]["mlp_head"]["inputs"][2]["shape"][1] = 2; }), "failed on cpu: ");
    holds(said([](Json& m) { m["components"]["mlp_head"]["inputs"][2]["shape"][1] = "wide"; }),
          "mlp_head has no input condition of a fixed width; build the bundle again.");
    holds(said([](Json& m) { m["components"]["mlp_head"]["inputs"][0]["dtype"] = "float16"; }),
          "mlp_head takes x as float16, where the loop has float32");
    holds(said([](Json& m) { m["components"]["dit_head"]["outputs"].clear(); }), "dit_head has 3 inputs and 0 outputs");
    holds(said([](Json& m) { m["components"].erase("dit_head"); }), "lacks the component dit_head; build the bundle again.");
    holds(said([](Json& m) { m["components"]["dit_head"]["precision"] = "bf16"; }), "dit_head is in bfloat16");
    holds(said([](Json& m) { m["components"]["dit_head"]["engine"]["backend"] = "tensorrt"; }),
          "is an engine for tensorrt, which needs an NVIDIA GPU; use device 'cuda', or backend 'onnxruntime'");
    holds(said([](Json& m) { m["components"]["dit_head"]["engine"]["backend"] = "abacus"; }), "which this himar does not know");
    holds(said([](Json& m) { m["components"]["dit_head"]["engine"]["file"] = "selftest.npz"; }), "dit_head does not load on cpu");
}

TEST_SUITE_END();
