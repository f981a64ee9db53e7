// A manifest that is damaged, of the future or hostile must be refused with a sentence that names the key.
#include <doctest/doctest.h>

#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "bundle/manifest.h"
#include "bundles.h"
#include "error.h"
#include "families/hi_mar/sampling.h"

using namespace himar::core;
using himar::core::hi_mar::Sampling;

namespace {

Json good() {
    return Json::parse(R"({
      "schema_version": "1.0", "himar_version": "0.1.0",
      "model": {"width": 3, "classes": 5, "buffer": 2, "cond_scale": 2, "img_size": 16, "channels": 2,
                "vae_stride": 4, "vae_scale": 0.25, "enc_depth": 1},
      "sampling": {"quality": {"low_steps": 3}, "fast": {"low_steps": 1, "a_knob_of_the_future": true}},
      "max_batch": 4,
      "components": {"mlp_head": {
        "file": "m.onnx", "precision": "fp32",
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["samples", 2]}],
        "outputs": [{"name": "prediction", "dtype": "float32", "shape": ["samples", 4]}],
        "profile": {"samples": [1, 2, 8]}, "engine": {"backend": "onnxruntime", "file": "m.onnx"}}},
      "backend": {"name": "onnxruntime", "version": "1.31.0", "compute_capability": null},
      "files": {"m.onnx": {"sha256": "00", "bytes": 1}, "selftest.npz": {"sha256": "00", "bytes": 1}},
      "selftest": "selftest.npz", "provenance": {}, "a_key_of_the_future": 1})");
}

const Sampling& sampling_of(const Manifest& manifest, std::size_t place) {
    return static_cast<const Sampling&>(*manifest.sampling[place].second);
}

// What is said of a manifest after `change`.
std::string refusal(const std::function<void(Json&)>& change) {
    Json manifest = good();
    change(manifest);
    return sentence_of<BundleError>([&] { parse_manifest(manifest.dump(), "manifest.json"); });
}

}  // namespace

TEST_SUITE_BEGIN("manifest");

TEST_CASE("a good manifest is read, unknown keys are ignored, the first setting is the default") {
    const Manifest manifest = parse_manifest(good().dump(), "manifest.json");
    CHECK(manifest.model->facts().latent_size == 4);
    CHECK(manifest.model->family == "hi_mar");
    CHECK(manifest.sampling.front().first == "quality");
    CHECK(sampling_of(manifest, 0).low_steps == 3);
    CHECK(sampling_of(manifest, 0).low_diffusion_steps == 100);
    CHECK(manifest.components.at("mlp_head").inputs.front().name == "x");
    CHECK(!manifest.backend.compute_capability);
}

TEST_CASE("class names are one for each class, or none") {
    const auto names = [](const Json& value) {
        Json changed = good();
        changed["model"]["class_names"] = value;
        return parse_manifest(changed.dump(), "manifest.json").class_names;
    };
    CHECK(parse_manifest(good().dump(), "manifest.json").class_names.empty());
    CHECK(names(nullptr).empty());
    CHECK(names({"a", "b", "tench, Tinca tinca", "d", "\u00e9"})[2] == "tench, Tinca tinca");
    const auto refused = [](const Json& value) {
        return refusal([&](Json& m) { m["model"]["class_names"] = value; });
    };
    holds(refused({"a", "b"}), "model.class_names has 2 entries; it must have one for each of the 5 classes.");
    holds(refused({"a", "b", 3, "d", "e"}), "model.class_names holds 3; each entry must be a name.");
    holds(refused({"a", "b", nullptr, "d", "e"}), "model.class_names holds null; each entry must be a name.");
    holds(refused({"a", "b", std::string("c\0c", 3), "d", "e"}), "each entry must be a name.");
    holds(refused("abcde"), "model.class_names is 'abcde'; it must be of type list.");
}

TEST_CASE("settings with solvers stand behind the others, or among them in schema 2") {
    Json changed = good();
    changed["solver_sampling"] = {{"quick", {{"low_steps", 2}, {"low_solver", "ddim"}, {"high_solver", "dpm++"}}}};
    const Manifest manifest = parse_manifest(changed.dump(), "manifest.json");
    REQUIRE(manifest.sampling.size() == 3);
    CHECK(sampling_of(manifest, 0).low_solver == "ddpm");
    const Sampling& quick = sampling_of(manifest, 2);
    CHECK((manifest.sampling.back().first == "quick" && quick.low_steps == 2 && quick.low_solver == "ddim" && quick.high_solver == "dpm++"));

    changed = good();
    changed["schema_version"] = "2.0";
    changed["sampling"]["quality"]["high_solver"] = "ddim";
    CHECK(sampling_of(parse_manifest(changed.dump(), "manifest.json"), 0).high_solver == "ddim");
}

TEST_CASE("a setting that holds modulations is read") {
    Json changed = good();
    changed["schema_version"] = "1.3";
    changed["forecast_sampling"] = {{"held", {{"low_steps", 2}, {"high_steps", 2}, {"modulation_interval", 4}}}};
    const Manifest manifest = parse_manifest(changed.dump(), "manifest.json");
    const Sampling& held = sampling_of(manifest, manifest.sampling.size() - 1);
    CHECK((held.modulation_interval == 4 && held.phase(false).evaluations.modulation_interval == 4));
    CHECK(sampling_of(manifest, 0).modulation_interval == 1);
    changed["forecast_sampling"]["held"]["modulation_interval"] = 1001;
    holds(sentence_of<BundleError>([&] { parse_manifest(changed.dump(), "manifest.json"); }),
          "modulation_interval is 1001; it must be 1 to 1000.");
}

TEST_CASE("settings that leave evaluations out stand behind those with solvers, or among the others in schema 5") {
    Json changed = good();
    changed["schema_version"] = "1.3";
    changed["solver_sampling"] = {{"quick", {{"low_solver", "ddim"}}}};
    changed["forecast_sampling"] = {
        {"eighth", {{"high_forecast", 8}, {"forecast_first", 6}, {"guidance_interval", 2}}},
        {"listed", {{"high_steps", 2}, {"high_diffusion_counts", {50, 20}}, {"high_guidances", {1, 2.5}}, {"least_guidance", 1.1}}}};
    const Manifest manifest = parse_manifest(changed.dump(), "manifest.json");
    REQUIRE(manifest.sampling.size() == 5);
    CHECK((manifest.sampling[2].first == "quick" && manifest.sampling[3].first == "eighth"));
    const Sampling &eighth = sampling_of(manifest, 3), &listed = sampling_of(manifest, 4);
    CHECK((eighth.high_forecast == 8 && eighth.forecast_first == 6 && eighth.guidance_interval == 2));
    CHECK((eighth.low_forecast == 1 && eighth.forecast_order == 1 && eighth.forecast_last == 3));
    CHECK(listed.high_diffusion_counts == std::vector<std::int64_t>{50, 20});
    CHECK(listed.high_guidances == std::vector<double>{1, 2.5});
    CHECK((listed.least_guidance == 1.1 && listed.low_guidances.empty()));

    changed = good();
    changed["schema_version"] = "5.0";
    changed["sampling"]["quality"]["low_forecast"] = 4;
    CHECK(sampling_of(parse_manifest(changed.dump(), "manifest.json"), 0).low_forecast == 4);
}

TEST_CASE("settings of forecasts and lists that say nothing or too much are refused") {
    const auto said = [](const char* name, const Json& value) {
        return refusal([&](Json& m) { m["sampling"]["fast"].update({{"high_steps", 4}, {name, value}}); });
    };
    holds(said("high_forecast", 0), "sampling.fast: high_forecast is 0; it must be 1 to 1000.");
    holds(said("low_forecast", 2.5), "low_forecast is 2.5; it must be a whole number.");
    holds(said("guidance_interval", 1001), "guidance_interval is 1001; it must be 1 to 1000.");
    holds(said("forecast_order", 3), "forecast_order is 3; it must be 0 to 2.");
    holds(said("forecast_order", -1), "forecast_order is -1; it must be 0 to 2.");
    holds(said("forecast_order", 0), "forecast_order is 0, but no phase is forecast; set low_forecast or high_forecast to "
                                     "2 or more, or leave it out.");
    holds(said("forecast_first", 5), "forecast_first is 5, but no phase is forecast;");
    holds(said("forecast_last", 5), "forecast_last is 5, but no phase is forecast;");
    holds(said("least_guidance", -1), "least_guidance is -1.0; it must be a number from 0 to 1000000.");
    holds(said("high_diffusion_counts", {250, 50}),
          "high_diffusion_counts has 2 counts, but high_steps is 4; give one for each step.");
    holds(said("high_guidances", {2}), "high_guidances has 1 scale, but high_steps is 4; give one for each step.");
    holds(said("high_diffusion_counts", {250, 50, 50, 1}), "high_diffusion_counts[3] is 1; it must be 2 to 1000.");
    holds(said("high_diffusion_counts", {250, "x"}), "high_diffusion_counts[1] is 'x'; it must be a whole number.");
    holds(said("high_diffusion_counts", {250, 50.0}), "high_diffusion_counts[1] is 50.0; it must be a whole number.");
    holds(said("low_guidances", "1,2"), "low_guidances is '1,2'; it must be a list.");
    holds(said("high_guidances", {1, 2, 3, -1}), "high_guidances[3] is -1.0; it must be a number from 0 to 1000000.");
    holds(refusal([](Json& m) { m["sampling"]["fast"].update({{"high_forecast", 8}, {"forecast_order", 2}}); }),
          "high_forecast is 8 and forecast_order is 2, which diverges over such gaps: 33 % of the digits were recognised "
          "(docs/forecast.md); use order 1, or an interval up to 4.");
    holds(refusal([](Json& m) { m["sampling"]["fast"].update({{"low_forecast", 5}, {"high_forecast", 5}, {"forecast_order", 2}}); }),
          "low_forecast is 5 and forecast_order is 2");
    holds(refusal([](Json& m) { m["forecast_sampling"] = 1; }), "forecast_sampling is 1; it must be of type dict.");
    holds(refusal([](Json& m) { m["forecast_sampling"]["fast"] = Json::object(); }),
          "manifest.json: forecast_sampling.fast is a setting of sampling too; build the bundle again.");
    holds(refusal([](Json& m) { m["solver_sampling"]["quick"] = m["forecast_sampling"]["quick"] = Json::object(); }),
          "manifest.json: forecast_sampling.quick is a setting of sampling too; build the bundle again.");
    holds(refusal([](Json& m) { m["forecast_sampling"]["quick"] = {{"high_forecast", 0}}; }),
          "forecast_sampling.quick: high_forecast is 0");
}

TEST_CASE("every key is needed, and of its type") {
    for (const char* key : {"schema_version", "himar_version", "model", "sampling", "max_batch", "components", "backend",
                            "files", "selftest", "provenance"}) {
        CHECK(refusal([&](Json& m) { m.erase(key); }) == std::string("manifest.json lacks ") + key + "; build the bundle again.");
        holds(refusal([&](Json& m) { m[key] = true; }), std::string(key) + " is true; it must be of type ");
    }
    for (const char* key : {"width", "classes", "buffer", "cond_scale", "img_size", "channels", "vae_stride"}) {
        holds(refusal([&](Json& m) { m["model"].erase(key); }), std::string("lacks model.") + key);
        holds(refusal([&](Json& m) { m["model"][key] = 0; }), std::string("model.") + key + " is 0; it must be at least 1.");
        holds(refusal([&](Json& m) { m["model"][key] = 1.5; }), std::string("model.") + key + " is 1.5; it must be of type int.");
        holds(refusal([&](Json& m) { m["model"][key] = 1ll << 40; }), "it must be at most ");
        holds(refusal([&](Json& m) { m["model"][key] = 1ull << 63; }), "it must be at most 2^63-1.");
    }
}

TEST_CASE("values out of range are refused with the value") {
    holds(refusal([](Json& m) { m["schema_version"] = "6.0"; }), "has schema version 6.0, but this himar reads versions up to 5.x");
    holds(refusal([](Json& m) { m["schema_version"] = "99999999999999999999.0"; }), "but this himar reads versions up to 5.x");
    holds(refusal([](Json& m) { m["schema_version"] = "one"; }), "schema_version is 'one'; it must be like '1.0'.");
    holds(refusal([](Json& m) { m["schema_version"] = "0.9"; }), "schema_version is '0.9'");
    holds(refusal([](Json& m) { m["model"]["vae_scale"] = -1; }), "model.vae_scale is -1.0; it must be a positive number.");
    holds(refusal([](Json& m) { m["model"]["img_size"] = 17; }), "model.img_size 17 is not a multiple of vae_stride 4.");
    holds(refusal([](Json& m) { m["sampling"] = Json::object(); }), "sampling is empty");
    holds(refusal([](Json& m) { m["sampling"]["fast"]["low_steps"] = 0; }), "sampling.fast: low_steps is 0; it must be at least 1.");
    holds(refusal([](Json& m) { m["sampling"]["fast"]["low_steps"] = true; }), "low_steps is true; it must be a whole number.");
    holds(refusal([](Json& m) { m["sampling"]["fast"]["temperature"] = "hot"; }), "temperature is 'hot'; it must be a number.");
    holds(refusal([](Json& m) { m["sampling"]["fast"]["guidance_schedule"] = "cosine"; }),
          "guidance_schedule is 'cosine'; it must be 'linear' or 'constant'.");
    holds(refusal([](Json& m) { m["sampling"]["fast"]["low_solver"] = "euler"; }),
          "sampling.fast: low_solver is 'euler'; it must be 'ddpm', 'ddim' or 'dpm++'.");
    holds(refusal([](Json& m) { m["sampling"]["fast"]["high_solver"] = 2; }), "high_solver is 2; it must be 'ddpm', 'ddim'");
    holds(refusal([](Json& m) {
        m["sampling"]["fast"].update({{"low_solver", "dpm++"}, {"high_solver", "ddim"}, {"temperature", 0.9}});
    }), "sampling.fast: temperature is 0.9, but it scales the noise of reverse steps and solver 'ddim' adds none; set it to "
        "1, or a phase's solver to 'ddpm'.");
    holds(refusal([](Json& m) { m["solver_sampling"] = 1; }), "solver_sampling is 1; it must be of type dict.");
    holds(refusal([](Json& m) { m["solver_sampling"]["fast"] = Json::object(); }),
          "manifest.json: solver_sampling.fast is a setting of sampling too; build the bundle again.");
    holds(refusal([](Json& m) { m["solver_sampling"]["quick"] = {{"high_steps", 0}}; }),
          "solver_sampling.quick: high_steps is 0");
    holds(refusal([](Json& m) { m["sampling"]["fast"]["low_diffusion_steps"] = 1001; }),
          "low_diffusion_steps is 1001; it must be 2 to 1000.");
    holds(refusal([](Json& m) { m["components"]["mlp_head"]["inputs"][0]["dtype"] = "int8"; }), "dtype is 'int8'; known are");
    holds(refusal([](Json& m) { m["components"]["mlp_head"]["inputs"][0]["shape"] = {0}; }), "shape is [0]; it must hold sizes");
    holds(refusal([](Json& m) { m["components"]["mlp_head"]["profile"]["samples"] = {3, 2, 1}; }),
          "samples is [3,2,1]; it must be [min, opt, max].");
    holds(refusal([](Json& m) { m["backend"]["compute_capability"] = "new"; }), "compute capability 'new'; it must be like '9.0'.");
    holds(refusal([](Json& m) { m["backend"]["compute_capabilities"] = {9}; }), "compute capability 9; it must be like");
    holds(refusal([](Json& m) { m["files"].erase("m.onnx"); }), "names m.onnx, but gives no hash for it");
}

TEST_CASE("phases are read with their components, and are the released ones where nothing is said") {
    const auto components = [](const Json& changes) {
        Json manifest = good();
        manifest["model"].update(changes);
        return parse_manifest(manifest.dump(), "manifest.json").model->components();
    };
    using Names = std::vector<std::string>;
    const Names released{"transformer_low", "mlp_head", "transformer_high", "dit_head"};
    CHECK(components(Json::object()) == released);
    CHECK(components({{"pivots", "condition"}, {"low_head", "mlp"}, {"high_head", "dit"}}) == released);
    CHECK(components({{"pivots", "visual"}}) == Names{"transformer_low", "mlp_head_low", "transformer_high", "dit_head_high"});
    CHECK(components({{"pivots", "none"}, {"cond_scale", 0}, {"high_head", "mlp"}}) == Names{"transformer_high", "mlp_head_high"});
    const auto with = [](const char* key, Json value) { return refusal([&](Json& m) { m["model"][key] = value; }); };
    CHECK(with("pivots", "audible") == "manifest.json: model.pivots is 'audible'; this himar knows 'none', 'visual', "
                                       "'condition': install a newer himar.");
    holds(with("low_head", 1), "model.low_head is 1; this himar knows 'mlp', 'dit': install a newer himar.");
    holds(with("high_head", nullptr), "model.high_head is null; this himar knows 'mlp', 'dit'");
    holds(with("pivots", "none"), "model.cond_scale is 2, but model.pivots is 'none', which is a single scale; build the bundle again.");
}

TEST_CASE("a model's family is hi_mar where nothing is said, and one that is not known is refused") {
    Json changed = good();
    changed["model"]["family"] = "hi_mar";
    const Manifest manifest = parse_manifest(changed.dump(), "manifest.json");
    CHECK(manifest.model->family == "hi_mar");
    CHECK(manifest.model->stages() == std::vector<std::string>{"low", "high"});
    CHECK(refusal([](Json& m) { m["model"]["family"] = "of_tomorrow"; }) ==
          "manifest.json: model.family is 'of_tomorrow'; this himar knows 'hi_mar', 'hmar': install a newer himar.");
    for (const Json& none : {Json(nullptr), Json(1), Json(""), Json("HI_MAR"), Json::array({"hi_mar"})})
        holds(refusal([&](Json& m) { m["model"]["family"] = none; }), "; this himar knows 'hi_mar', 'hmar': install a newer himar.");
    // Nothing else of a model that nobody here knows is looked at.
    holds(refusal([](Json& m) { m.update({{"schema_version", "3.0"}, {"model", {{"family", "of_tomorrow"}}}}); }),
          "model.family is 'of_tomorrow'");
}

TEST_CASE("paths that lead out of the bundle are refused wherever they stand") {
    const std::string with_zero("a\0b", 3);
    for (const std::string path : {"../x", "/etc/passwd", "a/../../x", "..", "a\\b", "C:x", "", ".", "x/.."}) {
        holds(refusal([&](Json& m) { m["selftest"] = path; }), "leads out of the bundle; refusing to load it.");
        holds(refusal([&](Json& m) { m["files"][path] = {{"sha256", "00"}, {"bytes", 1}}; }), "leads out of the bundle");
        holds(refusal([&](Json& m) { m["components"]["mlp_head"]["file"] = path; }), "leads out of the bundle");
        holds(refusal([&](Json& m) { m["components"]["mlp_head"]["engine"]["file"] = path; }), "leads out of the bundle");
    }
    holds(refusal([&](Json& m) { m["selftest"] = with_zero; }), "leads out of the bundle");
    CHECK(inside("a..b/c...d", "manifest.json") == "a..b/c...d");
}

TEST_CASE("text that is no manifest is refused, however deep or odd") {
    const auto said = [](const std::string& text) {
        return sentence_of<BundleError>([&] { parse_manifest(text, "manifest.json"); });
    };
    holds(said(""), "is not valid JSON");
    holds(said("{\"a\": NaN}"), "is not valid JSON");
    holds(said("\xff\xfe"), "is not valid JSON");
    holds(said("[]"), "the manifest must be a JSON object");
    holds(said(std::string(100000, '[')), "is nested more than 32 deep");
    holds(said("{\"a\":" + std::string(100, '[') + std::string(100, ']') + "}"), "is nested more than 32 deep");
    const std::string whole = good().dump();
    for (std::size_t size = 0; size < whole.size(); size += 7)
        CHECK_THROWS_AS(parse_manifest(whole.substr(0, size), "manifest.json"), BundleError);
}

TEST_CASE("a manifest changed at random is read or refused, never anything else") {
    const std::string whole = good().dump();
    const std::string pieces[] = {"\"", "{", "}", "[", "]", ",", ":", "-1", "1e999", "null", "99999999999999999999", "../", "\\u0000"};
    std::mt19937 random(5);
    const auto below = [&](std::size_t most) { return std::uniform_int_distribution<std::size_t>(0, most - 1)(random); };
    std::size_t read = 0, refused = 0;
    for (int round = 0; round < 5000; ++round) {
        std::string text = whole;
        for (std::size_t change = below(3) + 1; change > 0; --change) {
            const std::size_t place = below(text.size());
            switch (below(4)) {
                case 0: text[place] = static_cast<char>(below(256)); break;
                case 1: text.erase(place, below(12) + 1); break;
                case 2: text.insert(place, pieces[below(std::size(pieces))]); break;
                default: text.insert(place, text.substr(below(text.size()), below(40)));
            }
            if (text.empty()) text = "x";
        }
        try {
            parse_manifest(text, "manifest.json");
            ++read;
        } catch (const BundleError&) {
            ++refused;
        }
    }
    CHECK(read > 100);
    CHECK(refused > 2000);
}

TEST_SUITE_END();
