// The loop gives the same images on the CPU's queue and on one that behaves like a GPU's, and they are Python's. What is
// not shown here is CUDA itself.
#include <cstdlib>
#include <fstream>
#include <thread>

#include "bundle/json_reader.h"
#include "error.h"
#include "lane_pair.h"
#include "seed_draws.h"

namespace {

const std::vector<Chunk> kChunks = {chunk_of({1, 3, 0}, 7, (1ull << 63) + 5), chunk_of({4}, 4294967290u, 3),
                                   chunk_of({2, 1, 0, 3}, 0, 11)};

}  // namespace

TEST_SUITE_BEGIN("lane");

TEST_CASE("both queues give the same images") {
    Pair pair;
    for (const Sampling& sampling : settings())
        for (const Chunk& chunk : kChunks) same(pair.on_device(chunk, sampling), pair.on_host(chunk, sampling));
}

TEST_CASE("both queues give the same latents of a variant") {
    const char* const name = std::getenv("HIMAR_TEST_VARIANT");
    if (name == nullptr) {
        MESSAGE("skipped: HIMAR_TEST_VARIANT names no bundle; tests/runtime/cpp/test_variants.py does");
        return;
    }
    Pair pair(name);
    for (const Sampling& sampling : settings()) {
        if (pair.model().single_scale() && sampling.high_solver != "ddpm" && sampling.temperature != 1) continue;  // refused
        for (std::uint64_t seed = 0; seed < 3; ++seed) {  // directly, recorded, replayed
            const Chunk chunk = chunk_of({2, 1, 0}, 7, seed);
            same(pair.on_device(chunk, sampling), pair.on_host(chunk, sampling));
        }
        SeedDraws seeded(2);
        const himar_draws given = c_draws(seeded);
        same(pair.on_device(chunk_of({2, 1, 0}, 7, 0, &given), sampling), pair.on_host(chunk_of({2, 1, 0}, 7, 2), sampling));
    }
    CHECK(pair.device->count("replay") > 0);
}

TEST_CASE("the images are those of Python's runtime") {
    Pair pair;
    std::ifstream file(bundle("tiny-python.json"));
    const auto runs = nlohmann::json::parse(file);
    REQUIRE(runs.size() >= 8);
    for (const auto& run : runs) {
        const Json settings = Json::parse(run["settings"].dump());
        const Sampling sampling = read_sampling(JsonReader(settings, "tiny-python.json", "settings"));
        const Chunk chunk = chunk_of(run["labels"], run["first_index"], run["seed"]);
        const Made made = pair.on_device(chunk, sampling);
        CHECK(relative(made.latents, run["latents"].get<std::vector<float>>()) <= kSameEngines);
        CHECK(relative(made.preview_latents, run["low_latents"].get<std::vector<float>>()) <= kSameEngines);
    }
}

TEST_CASE("draws that the host gives are taken in place of the seed's") {
    Pair pair;
    for (const Chunk& chunk : kChunks) {
        SeedDraws seeded(chunk.origins.front().seed);
        const himar_draws given = c_draws(seeded);
        Chunk drawn = chunk;
        for (himar::ImageOrigin& origin : drawn.origins) origin.seed = 0;
        drawn.draws = &given;
        same(pair.on_device(drawn, guided()), pair.on_host(chunk, guided()));
        same(pair.on_host(drawn, guided()), pair.on_host(chunk, guided()));
    }
}

TEST_CASE("solvers that add no noise ask given draws for the starts of chains alone") {
    Pair pair;
    Sampling sampling = guided();
    sampling.low_solver = "ddim", sampling.high_solver = "dpm++";
    for (Lane* const lane : {&pair.host, &pair.resident}) {
        SeedDraws seeded(9);
        const himar_draws given = c_draws(seeded);
        same(pair.run(*lane, chunk_of({1, 3}, 4, 0, &given), sampling), pair.on_host(chunk_of({1, 3}, 4, 9), sampling));
        CHECK(seeded.asked == sampling.low_steps + sampling.high_steps);
    }
}

TEST_CASE("a replayed graph follows seed, label, guidance, chain, solver and temperature") {
    Pair pair;
    for (std::uint64_t seed = 0; seed < 3; ++seed) pair.on_device(chunk_of({0, 1}, 0, seed), guided());
    for (Sampling sampling : settings()) {
        if (sampling.low_steps != 3) continue;
        sampling.low_diffusion_steps += 3, sampling.high_diffusion_steps -= 1;
        for (std::int64_t& count : sampling.high_diffusion_counts) count += 2;
        const Chunk chunk = chunk_of({4, 2}, 4294967290u, 99);
        same(pair.on_device(chunk, sampling), pair.on_host(chunk, sampling));
    }
}

TEST_CASE("a preview in pixels is that of the CPU's queue, at its step") {
    Pair pair;
    const Chunk chunk = chunk_of({1, 2, 0}, 0, 3);
    std::vector<std::vector<std::uint8_t>> wanted, found;
    const auto note = [](Lane& lane, auto& all, std::size_t images) {
        return [&lane, &all, images](const StepInfo&, const float*) {
            const PreviewPixels made = lane.preview(0, 3);
            all.emplace_back(made.pixels, made.pixels + images * static_cast<std::size_t>(made.side * made.side * 3));
            return true;
        };
    };
    pair.run(pair.host, chunk, guided(), note(pair.host, wanted, 3));
    const Made made = pair.on_device(chunk, guided(), note(pair.resident, found, 3));
    REQUIRE(found.size() == wanted.size());
    for (std::size_t step = 0; step < found.size(); ++step) CHECK(pixels_apart(found[step], wanted[step]) <= 1);
    CHECK(wanted.front() != wanted.back());
    same(made, pair.on_host(chunk, guided()));
}

TEST_CASE("lanes of four threads give the images of one") {
    Pair pair;
    std::vector<std::vector<float>> wanted, found(4);
    std::vector<std::unique_ptr<Lane>> lanes;
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
        wanted.push_back(pair.on_device(chunk_of({1, 2, 3}, 0, seed), guided()).latents);
        lanes.push_back(pair.resident.clone());
    }
    std::vector<std::thread> threads;
    for (std::size_t lane = 0; lane < 4; ++lane)
        threads.emplace_back([&, lane] {
            for (int run = 0; run < 3; ++run) found[lane] = pair.run(*lanes[lane], chunk_of({1, 2, 3}, 0, lane), guided()).latents;
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(found == wanted);
}

TEST_CASE("values that are not finite are named at the end") {
    for (const std::string name : {"transformer_low", "transformer_high", "mlp_head", "dit_head", "vae_decoder"}) {
        Pair pair("nan-" + name);
        const Chunk chunk = chunk_of({0, 1, 2, 3, 4}, 0, 3);  // some component's NaN belongs to one class
        const std::string said = sentence_of<EngineError>([&] { pair.on_device(chunk, guided()); });
        CHECK(said == sentence_of<EngineError>([&] { pair.on_host(chunk, guided()); }));
        holds(said, name + " returned values that are not finite");
        CHECK(pair.device->trace.back() == "synchronize");
    }
}

TEST_CASE("a bundle without a decoder gives latents") {
    Pair pair("no-decoder");
    same(pair.on_device(chunk_of({1, 2}, 0, 3), guided()), pair.on_host(chunk_of({1, 2}, 0, 3), guided()));
    CHECK(std::isnan(pair.resident.engine_seconds()));
}

TEST_SUITE_END();
