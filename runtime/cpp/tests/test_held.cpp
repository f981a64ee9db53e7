// Held modulations: a DiT head in two parts, of which one runs at every so many-th evaluation.
#include "error.h"
#include "lane_pair.h"

namespace {

Sampling held(std::int64_t interval) {
    Sampling sampling = guided();
    sampling.high_diffusion_steps = 10, sampling.modulation_interval = interval;
    return sampling;
}

// Every kind of group: alone, among forecasts, with one half and with both, those that start with one half.
std::vector<Sampling> held_settings() {
    std::vector<Sampling> all = {held(3), forecast(), held(3), held(4), held(1000), listed()};
    all[1].modulation_interval = all[5].modulation_interval = 2;
    all[2].guidance_interval = 2;
    all[3].high_guidance = 1, all[3].high_solver = "dpm++";
    return all;
}

}  // namespace

TEST_SUITE_BEGIN("lane");

TEST_CASE("both queues give the same images where modulations are held, directly, recorded and replayed") {
    Pair pair("tiny-held");
    for (const Sampling& sampling : held_settings())
        for (std::uint64_t seed = 0; seed < 3; ++seed) {
            const Chunk chunk = chunk_of({1, 3, 0}, 7, seed);
            same(pair.on_device(chunk, sampling), pair.on_host(chunk, sampling));
        }
    CHECK(pair.device->count("replay") > 0);
}

TEST_CASE("one part makes modulations where the settings say, and the other runs at every evaluation") {
    Pair pair("tiny-held", "segments run directly");
    const Chunk chunk = chunk_of({1, 2}, 0, 3);
    pair.on_device(chunk, held(3));
    CHECK(pair.device->count("dit_head") == 0);
    CHECK(pair.device->count("dit_head_modulations") == 2 * 4);  // of 10 evaluations in each of 2 steps
    CHECK(pair.device->count("dit_head_held") == 2 * 10);
    CHECK(pair.device->count("mlp_head") == 3 * 6);
    pair.device->trace.clear();
    Sampling sampling = forecast();
    sampling.modulation_interval = 4;
    pair.on_device(chunk, sampling);
    CHECK(pair.device->count("dit_head_modulations") == 2 * 2);  // of 6 evaluations
    CHECK(pair.device->count("dit_head_held") == 2 * 6);
    pair.device->trace.clear();
    pair.on_device(chunk, held(1));
    CHECK(pair.device->count("dit_head") == 2 * 10);
    CHECK(pair.device->count("dit_head_held") == 0);
}

TEST_CASE("held modulations make other images") {
    Pair pair("tiny-held");
    const Chunk chunk = chunk_of({1, 2}, 0, 3);
    CHECK(relative(pair.on_host(chunk, held(3)).latents, pair.on_host(chunk, held(1)).latents) > 100 * kSameEngines);
}

TEST_CASE("one lane holds modulations and then does not, of more and of fewer images") {
    Pair pair("tiny-held");
    for (int round = 0; round < 3; ++round)
        for (const auto& [interval, labels] : std::vector<std::pair<std::int64_t, std::vector<std::int64_t>>>{
                 {2, {1}}, {1, {2, 0, 1}}, {3, {0, 4, 2, 1}}, {2, {3, 1}}, {1, {3}}}) {
            Pair fresh("tiny-held");
            const Chunk chunk = chunk_of(labels, 0, static_cast<std::uint64_t>(round));
            const Made wanted = fresh.on_host(chunk, held(interval));
            same(pair.on_host(chunk, held(interval)), wanted);
            same(pair.on_device(chunk, held(interval)), wanted);
        }
}

TEST_CASE("modulations lie one after another with room for all rows, of a maker whose outputs have fixed sizes") {
    const Bundle opened = Bundle::open(bundle("tiny-held"));
    Networks networks = load_networks(opened, {"cpu", "", 1});
    CHECK(networks.find("dit_head_held") == nullptr);  // it loads when it is needed
    Engine &maker = *networks.need("dit_head_modulations"), &head = *networks.need("dit_head_held");
    const HeldModulations held(maker, head, 4, *networks.queue);
    const std::vector<Place> places = held.with({}, 2);
    REQUIRE(places.size() == 2);
    CHECK((places[0].name == std::string("shift") && places[1].name == std::string("fade")));
    CHECK((places[0].shape.count() == 2 * 16 * 4 && places[1].shape.count() == 2 * 16 * 2));
    const auto apart = static_cast<char*>(places[1].address) - static_cast<char*>(places[0].address);
    CHECK(apart == 4 * 16 * 4 * 4);  // four rows of 16 positions, width 4, of 4 bytes
    const auto refused = [&] { HeldModulations(*networks.decoder(), head, 4, *networks.queue); };
    CHECK(sentence_of<BundleError>(refused) ==
          "vae_decoder has no output image (rows, positions, width) of fixed sizes; build the bundle again.");
}

TEST_CASE("a model without a DiT head has no modulations to hold") {
    HiMarModel model;
    model.img_size = 16, model.vae_stride = 4, model.cond_scale = 2, model.high_head = HeadKind::kMlp;
    CHECK(sentence_of<InputError>([&] { model.changed(held(2), himar_generate_params{}); }) ==
          "modulation_interval is 2, but this bundle's model has no DiT head, whose modulations could be held; leave it out.");
    CHECK_NOTHROW(model.changed(held(1), himar_generate_params{}));
}

TEST_CASE("types have the names of manifests") {
    for (const char* const name : {"float32", "float16", "int64"}) CHECK(name_of(dtype_named(name)) == std::string(name));
    CHECK((size_of(Dtype::kFloat32) == 4 && size_of(Dtype::kFloat16) == 2 && size_of(Dtype::kInt64) == 8));
    CHECK(sentence_of<EngineError>([] { dtype_named("float8"); }) ==
          "float8 is no type of tensors; known are float32, float16, int64.");
}
