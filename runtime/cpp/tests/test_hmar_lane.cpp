// HMAR's loop over a queue that behaves like a GPU's, in the host's memory: the host's codes, no waiting, an idle device.
#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <thread>
#include <vector>

#include "bundles.h"
#include "error.h"
#include "hmar_lanes.h"

using namespace himar::core;
using namespace himar::core::hmar;

namespace {

// Every kind of forward.
std::vector<Sampling> settings(const HmarLanes& lanes) {
    std::vector<Sampling> all(6, lanes.setting());
    all[1].guidance = 0;
    all[2].mask_guidance = 0, all[2].top_k = 0, all[2].top_p = 1;
    all[3].schedule = {}, all[3].all_scales = true;
    all[4].schedule = {}, all[4].all_scales = true, all[4].guidance = 0;
    all[5].schedule = {}, all[5].smooth = true;
    return all;
}

}  // namespace

TEST_SUITE_BEGIN("hmar_lane");

TEST_CASE("both queues give the same codes, whatever ran before") {
    HmarLanes lanes;
    const Chunk chunks[] = {chunk_of({1, 2}, 0, 3), chunk_of({4, 0, 1, 3}, 7, 5), chunk_of({3}, 4294967295u, 9)};
    for (const Sampling& sampling : settings(lanes))
        for (const Chunk& chunk : chunks)
            same(lanes.run(*lanes.resident, chunk, sampling), lanes.run(*lanes.host, chunk, sampling));
}

TEST_CASE("an image is the same in any chunk, and a smooth preview has no codes") {
    HmarLanes lanes;
    for (const Sampling& sampling : settings(lanes)) {
        const Made all = lanes.run(*lanes.host, chunk_of({4, 0, 1}, 7, 5), sampling);
        const Made last = lanes.run(*lanes.host, chunk_of({1}, 9, 5), sampling);
        CHECK(std::equal(last.codes.begin(), last.codes.end(), all.codes.end() - lanes.model().scales.tokens()));
        CHECK(std::count(all.codes.begin(), all.codes.end(), -1) == (sampling.smooth ? 3 * 14 : 0));
    }
}

TEST_CASE("nothing waits for the device before the end") {
    HmarLanes lanes;
    lanes.device->trace.clear();
    lanes.run(*lanes.resident, chunk_of({1, 2}, 0, 3), lanes.setting());
    const auto& trace = lanes.device->trace;
    CHECK(lanes.device->count("wait") == 0);
    CHECK(lanes.device->count("synchronize") == 0);
    CHECK(lanes.device->count("trunk") == 7);
    CHECK(lanes.device->count("masked_tail") == 4);
    const auto is = [](const char* name) { return [name](const std::string& each) { return each == name; }; };
    const auto first_launch = std::find_if(trace.begin(), trace.end(), is("himar_draw_codes"));
    CHECK(std::none_of(first_launch, trace.end(), is("upload")));
    const auto first_download = std::find_if(trace.begin(), trace.end(), is("download"));
    CHECK(std::all_of(first_download, trace.end(), is("download")));
}

TEST_CASE("progress comes one scale behind with that scale's latent, and can cancel") {
    HmarLanes lanes;
    const Chunk chunk = chunk_of({1, 2}, 0, 3);
    const auto size = static_cast<std::ptrdiff_t>(2 * 2 * 9);
    std::vector<std::vector<float>> wanted, found;
    std::vector<std::string> names;
    lanes.run(*lanes.host, chunk, lanes.setting(), [&](const StepInfo&, const float* latent) {
        wanted.emplace_back(latent, latent + size);
        return true;
    });
    lanes.run(*lanes.resident, chunk, lanes.setting(), [&](const StepInfo& step, const float* latent) {
        found.emplace_back(latent, latent + size);
        names.emplace_back(step.stage_name);
        lanes.device->is_current = false;  // as a user's function may leave it
        CHECK(lanes.resident->preview(0, 2).side == 12);
        return true;
    });
    CHECK(names == std::vector<std::string>{"scale 1", "scale 2", "scale 3"});
    REQUIRE(found.size() == 3);
    for (std::size_t i = 0; i < 3; ++i) CHECK(relative(found[i], wanted[i]) <= kSameEngines);
    for (int last = 0; last < 3; ++last) {
        int calls = 0;
        CHECK(!lanes.run(*lanes.resident, chunk, lanes.setting(), [&](const StepInfo&, const float*) { return calls++ < last; }).finished);
        CHECK(calls == last + 1);
        CHECK(lanes.device->trace.back() == "synchronize");
    }
}

TEST_CASE("lanes run at once, and load what is deferred once") {
    HmarLanes lanes;
    const Sampling sampling = settings(lanes)[3];
    const Chunk chunk = chunk_of({1, 2, 3}, 0, 3);
    std::vector<std::unique_ptr<Lane>> all;
    for (int i = 0; i < 3; ++i) all.push_back(lanes.host->clone());
    std::vector<Made> made(all.size());
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < all.size(); ++i)
        threads.emplace_back([&, i] { made[i] = lanes.run(*all[i], chunk, sampling); });
    for (std::thread& thread : threads) thread.join();
    const Made wanted = lanes.run(*lanes.host, chunk, sampling);
    for (const Made& each : made) CHECK((each.finished && each.codes == wanted.codes));
}

TEST_CASE("through the C++ interface, settings and draws are checked, codes are there, and other families have none") {
    himar::Pipeline hmar = load(bundle("tiny-hmar")), hi_mar = load();
    CHECK((hmar.info().low_latent_size == 0 && hmar.info().latent_size == 3 && hmar.info().image_size == 12));
    CHECK(std::string(hmar.info().stages) == "scale 1, scale 2, scale 3");
    himar::GenerateOptions options = options_of({1, 2});
    options.top_k = 4, options.guidance = 0.5, options.schedule = "[[1], [2, 2]]", options.smooth = false;
    const himar::Result result = hmar.generate(options);
    CHECK((result.codes().shape()[0] == 2 && result.codes().shape()[1] == 14));
    const Json recipe = Json::parse(result.recipe(1));
    CHECK((recipe["family"] == "hmar" && recipe["sampling"]["top_k"] == 4 && recipe["sampling"]["guidance"] == 0.5));
    holds(sentence_of<himar::Error>([&] { result.low_latents(); }), "this model's family has no low-resolution latents");
    holds(sentence_of<himar::Error>([&] { hi_mar.generate(options); }), "schedule is given, but a Hi-MAR model has no such setting");
    holds(sentence_of<himar::Error>([&] { hi_mar.generate(options_of({1})).codes(); }), "this model's family has no codes");
    options = options_of({1});
    options.top_k = -1;
    holds(sentence_of<himar::Error>([&] { hmar.check_options(options); }), "top_k is -1; it must be at least 0.");
    options = options_of({1}, 0);
    himar::Draws none;
    options.draws = &none;
    holds(sentence_of<himar::Error>([&] { hmar.generate(options); }), "these draws have no uniforms, which the model asks for.");
    himar_draws draws{};
    draws.struct_size = sizeof draws;
    himar_generate_params params;
    himar_generate_params_init(&params);
    const std::int64_t label = 1;
    params.labels = &label, params.label_count = 1, params.draws = &draws;
    CHECK(himar_pipeline_check(hmar.get(), &params) == HIMAR_ERROR_INPUT);
    holds(himar_last_error(), "himar_draws.uniforms is NULL, and the request draws from it;");
    himar_hi_mar_settings other;
    himar_hi_mar_settings_init(&other);
    other.guidance = 2;
    params.draws = nullptr, params.hi_mar = &other;
    CHECK(himar_pipeline_check(hmar.get(), &params) == HIMAR_ERROR_INPUT);
    holds(himar_last_error(), "guidance of hi_mar is given, but an HMAR model takes it among the settings of hmar.");
}

TEST_SUITE_END();
