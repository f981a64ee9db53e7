// The resident loop in the host's memory: the images of the loop on the host and of Python's, segments recorded and
// replayed, no waiting. What is not shown here is CUDA itself.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <thread>
#include <vector>

#include "bundle.h"
#include "bundles.h"
#include "error.h"
#include "host_device.h"
#include "lane.h"
#include "resident/lane.h"
#include "seed_draws.h"

using namespace himar::core;

namespace {

struct Made {
    bool finished;
    std::vector<float> latents, low_latents;
    std::vector<std::uint8_t> pixels;
};

// A bundle on both loops.
class Pair {
public:
    explicit Pair(const std::string& name = "tiny", const std::string& refusal = "")
        : opened_(Bundle::open(bundle(name))),
          host_(load_networks(opened_, request()), model()),
          device(std::make_shared<HostDevice>()),
          resident(on_host_device(load_networks(opened_, request()), device, refusal), model(),
                   opened_.manifest().max_batch) {}

    ~Pair() { CHECK(device->kept_inside()); }

    const ModelInfo& model() const { return opened_.manifest().model; }
    Sampling setting() const { return opened_.manifest().sampling.front().second; }

    Made on_host(const Chunk& chunk, const Sampling& sampling) { return run(host_, chunk, sampling); }
    Made on_device(const Chunk& chunk, const Sampling& sampling, const Runner::GoOn& go_on = {}) {
        return run(resident, chunk, sampling, go_on);
    }
    Made run(Runner& runner, const Chunk& chunk, const Sampling& sampling, const Runner::GoOn& go_on = {}) const {
        const auto B = static_cast<std::int64_t>(chunk.labels.size());
        const std::int64_t C = model().channels, side = model().img_size;
        Made made;
        made.pixels.resize(runner.has_decoder() ? static_cast<std::size_t>(B * side * side * 3) : 0);
        made.finished = runner.run(chunk, sampling, go_on, runner.has_decoder() ? made.pixels.data() : nullptr);
        if (!made.finished) return made;
        made.latents.assign(runner.latents(), runner.latents() + B * C * model().high_positions());
        made.low_latents.assign(runner.low_latents(), runner.low_latents() + B * C * model().low_positions());
        return made;
    }

private:
    static LoadRequest request() { return {"cpu", "", 1}; }

    Bundle opened_;
    Lane host_;

public:
    Runner& host() { return host_; }
    std::shared_ptr<HostDevice> device;
    ResidentLane resident;
};

double relative(const std::vector<float>& values, const std::vector<float>& wanted) {
    REQUIRE(values.size() == wanted.size());
    double apart = 0, whole = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
        apart += std::pow(static_cast<double>(values[i]) - wanted[i], 2);
        whole += std::pow(static_cast<double>(wanted[i]), 2);
    }
    return std::sqrt(apart / whole);
}

void same(const Made& made, const Made& wanted) {
    REQUIRE(made.finished);
    CHECK(relative(made.latents, wanted.latents) <= 1e-5);
    CHECK(relative(made.low_latents, wanted.low_latents) <= 1e-5);
    REQUIRE(made.pixels.size() == wanted.pixels.size());
    int most = 0;
    for (std::size_t i = 0; i < made.pixels.size(); ++i) most = std::max(most, std::abs(made.pixels[i] - wanted.pixels[i]));
    CHECK(most <= 1);
}

Sampling guided() {
    Sampling sampling;
    sampling.low_steps = 3, sampling.high_steps = 2;
    sampling.low_guidance = 1.5, sampling.high_guidance = 2.0;
    sampling.low_diffusion_steps = 6, sampling.high_diffusion_steps = 5;
    return sampling;
}

std::vector<Sampling> settings() {
    std::vector<Sampling> all(6, guided());
    all[1].low_guidance = 1;
    all[2].high_guidance = 1, all[2].temperature = 0.7;
    all[3].low_guidance = all[3].high_guidance = 1, all[3].guidance_schedule = "constant";
    all[4].low_steps = all[4].high_steps = 1, all[4].low_diffusion_steps = 2, all[4].high_diffusion_steps = 3;
    all[5].low_steps = 4, all[5].high_steps = 16, all[5].low_diffusion_steps = 3, all[5].high_diffusion_steps = 2;
    return all;
}

const std::vector<Chunk> kChunks = {{{1, 3, 0}, 7, (1ull << 63) + 5}, {{4}, 4294967290u, 3}, {{2, 1, 0, 3}, 0, 11}};

}  // namespace

TEST_SUITE_BEGIN("resident");

TEST_CASE("the images are those of the loop on the host") {
    Pair pair;
    for (const Sampling& sampling : settings())
        for (const Chunk& chunk : kChunks) same(pair.on_device(chunk, sampling), pair.on_host(chunk, sampling));
}

TEST_CASE("the images are those of Python's runtime") {
    Pair pair;
    std::ifstream file(bundle("tiny-python.json"));
    const auto runs = nlohmann::json::parse(file);
    REQUIRE(runs.size() >= 3);
    for (const auto& run : runs) {
        Sampling sampling = pair.setting();
        sampling.low_guidance = run["low_guidance"], sampling.high_guidance = run["high_guidance"];
        const Chunk chunk{run["labels"], run["first_index"], run["seed"]};
        const Made made = pair.on_device(chunk, sampling);
        CHECK(relative(made.latents, run["latents"]) <= 1e-5);
        CHECK(relative(made.low_latents, run["low_latents"]) <= 1e-5);
    }
}

TEST_CASE("draws that the host gives are taken in place of the seed's") {
    Pair pair;
    for (const Chunk& chunk : kChunks) {
        SeedDraws seeded(chunk.seed);
        const himar_draws given = c_draws(seeded);
        Chunk drawn = chunk;
        drawn.seed = 0;
        drawn.draws = &given;
        same(pair.on_device(drawn, guided()), pair.on_host(chunk, guided()));
        same(pair.on_host(drawn, guided()), pair.on_host(chunk, guided()));
    }
}

TEST_CASE("segments run once, are recorded once and then replayed") {
    Pair pair;
    const Sampling sampling = guided();
    const Chunk chunk{{1, 2}, 0, 3}, other{{1, 2}, 0, 4};
    auto& trace = pair.device->trace;
    const Made first = pair.on_device(chunk, sampling);
    // Within one request only the reverse steps repeat.
    CHECK(pair.device->count("himar_dit_step") == 1);
    CHECK(pair.device->count("transformer_low") == 3);
    CHECK(pair.device->count("transformer_high") == 2);
    pair.on_device(other, sampling);
    trace.clear();
    const Made again = pair.on_device(chunk, sampling);
    for (const char* engine : {"transformer_low", "transformer_high", "mlp_head", "dit_head", "vae_decoder"})
        CHECK(pair.device->count(engine) == 0);
    CHECK(pair.device->count("replay") == 3 * 6 + 2 * 5 + 3 + 2 + 1);
    CHECK(first.latents == again.latents);
    CHECK(pair.resident.without_graphs() == "");
}

TEST_CASE("a replayed graph follows seed, label, guidance, chain and temperature") {
    Pair pair;
    for (std::uint64_t seed = 0; seed < 3; ++seed) pair.on_device({{0, 1}, 0, seed}, guided());
    for (Sampling sampling : settings()) {
        if (sampling.low_steps != 3) continue;
        sampling.low_diffusion_steps += 3, sampling.high_diffusion_steps -= 1;
        const Chunk chunk{{4, 2}, 4294967290u, 99};
        same(pair.on_device(chunk, sampling), pair.on_host(chunk, sampling));
    }
}

TEST_CASE("nothing waits for the device before the end") {
    Pair pair;
    pair.on_device({{1, 2}, 0, 3}, guided());
    const auto& trace = pair.device->trace;
    CHECK(pair.device->count("wait") == 0);
    CHECK(pair.device->count("synchronize") == 0);
    const auto is = [](const char* name) { return [name](const std::string& each) { return each == name; }; };
    const auto first_launch = std::find_if(trace.begin(), trace.end(), [](auto& n) { return n.rfind("himar_", 0) == 0; });
    CHECK(std::none_of(first_launch, trace.end(), is("upload")));
    const auto first_download = std::find_if(trace.begin(), trace.end(), is("download"));
    CHECK(std::all_of(first_download, trace.end(), is("download")));
}

TEST_CASE("progress comes one step behind with that step's latents, and can cancel") {
    Pair pair;
    const Chunk chunk{{1, 2}, 0, 3};
    const Sampling sampling = guided();
    std::vector<std::vector<float>> wanted, found;
    const auto size = static_cast<std::ptrdiff_t>(2 * pair.model().channels * pair.model().low_positions());
    pair.run(pair.host(), chunk, sampling, [&](const Step&, const float* low) {
        wanted.emplace_back(low, low + size);
        return true;
    });
    const Made all = pair.on_device(chunk, sampling, [&](const Step& step, const float* low) {
        CHECK(step.index == (found.size() < 3 ? static_cast<int>(found.size()) : static_cast<int>(found.size()) - 3));
        found.emplace_back(low, low + size);
        CHECK(pair.device->count("mark") == std::min<long>(static_cast<long>(found.size()) + 1, 5));
        return true;
    });
    REQUIRE(found.size() == 5);
    for (std::size_t i = 0; i < 5; ++i) {
        CHECK(relative(found[i], wanted[i]) <= 1e-5);
        // Positions that are not revealed yet are 0 in both.
        CHECK(std::count(found[i].begin(), found[i].end(), 0.0f) == std::count(wanted[i].begin(), wanted[i].end(), 0.0f));
    }
    for (int last = 0; last < 5; ++last) {
        int calls = 0;
        const Made made = pair.on_device(chunk, sampling, [&](const Step&, const float*) { return calls++ < last; });
        CHECK(!made.finished);
        CHECK(calls == last + 1);
        CHECK(pair.device->trace.back() == "synchronize");  // an idle device
    }
    CHECK(pair.on_device(chunk, sampling).latents == all.latents);
}

TEST_CASE("what a callback throws comes out, and leaves an idle device") {
    Pair pair;
    CHECK_THROWS_AS(pair.on_device({{1}, 0, 3}, guided(), [](const Step&, const float*) -> bool { throw 7; }), int);
    CHECK(pair.device->trace.back() == "synchronize");
    same(pair.on_device({{1}, 0, 3}, guided()), pair.on_host({{1}, 0, 3}, guided()));
}

TEST_CASE("a preview in pixels is that of the loop on the host, at its step") {
    Pair pair;
    const Chunk chunk{{1, 2, 0}, 0, 3};
    std::vector<std::vector<std::uint8_t>> wanted, found;
    const auto note = [](Runner& runner, auto& all, std::size_t images) {
        return [&runner, &all, images](const Step&, const float*) {
            const PreviewPixels made = runner.preview();
            all.emplace_back(made.pixels, made.pixels + images * static_cast<std::size_t>(made.side * made.side * 3));
            return true;
        };
    };
    pair.run(pair.host(), chunk, guided(), note(pair.host(), wanted, 3));
    const Made made = pair.on_device(chunk, guided(), note(pair.resident, found, 3));
    CHECK(found == wanted);
    CHECK(wanted.front() != wanted.back());
    same(made, pair.on_host(chunk, guided()));
}

TEST_CASE("graphs of another epoch are not replayed") {
    Pair pair;
    const Chunk chunk{{1, 2}, 0, 3};
    for (int run = 0; run < 2; ++run) pair.on_device(chunk, guided());
    const Made wanted = pair.on_device(chunk, guided());
    ++pair.device->epoch_now;
    pair.device->trace.clear();
    CHECK(pair.on_device(chunk, guided()).latents == wanted.latents);
    CHECK(pair.device->count("transformer_low") == 3);
}

TEST_CASE("where engines or the device refuse to be recorded, segments run directly") {
    const Chunk chunk{{1, 2}, 0, 3};
    Pair engines("tiny", "their streams are their own"), device;
    device.device->refuses_to_record = "CUDA's cuStreamEndCapture failed: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED (901).";
    for (Pair* const pair : {&engines, &device}) {
        for (int run = 0; run < 2; ++run) same(pair->on_device(chunk, guided()), pair->on_host(chunk, guided()));
        CHECK(pair->device->count("replay") == 0);
    }
    CHECK(engines.resident.without_graphs() == "their streams are their own");
    holds(device.resident.without_graphs(), "cuStreamEndCapture failed");
}

TEST_CASE("beyond the most graphs the least recently used is given up") {
    HostDevice device;
    Replays replays(device, [] { return std::string(); });
    int runs = 0;
    const auto run = [&](std::int64_t number) { replays.run({number, 0, 0, 0, 0}, [&] { device.queue("work", [&] { ++runs; }); }); };
    constexpr auto most = static_cast<std::int64_t>(Replays::kMost);
    for (std::int64_t number = 0; number < most; ++number) run(number);
    run(0);     // recorded and replayed, so it is the most recently used
    run(most);  // takes the place of 1
    CHECK(device.count("replay") == 1);
    run(0);
    CHECK(device.count("replay") == 2);
    run(1);  // directly
    CHECK(device.count("replay") == 2);
    CHECK(runs == static_cast<int>(most) + 4);
}

TEST_CASE("lanes of four threads give the images of one") {
    Pair pair;
    std::vector<std::vector<float>> wanted, found(4);
    std::vector<std::unique_ptr<Runner>> lanes;
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
        wanted.push_back(pair.on_device({{1, 2, 3}, 0, seed}, guided()).latents);
        lanes.push_back(pair.resident.clone());
    }
    std::vector<std::thread> threads;
    for (std::size_t lane = 0; lane < 4; ++lane)
        threads.emplace_back([&, lane] {
            for (int run = 0; run < 3; ++run) found[lane] = pair.run(*lanes[lane], {{1, 2, 3}, 0, lane}, guided()).latents;
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(found == wanted);
}

TEST_CASE("values that are not finite are named at the end") {
    for (const std::string name : {"transformer_low", "transformer_high", "mlp_head", "dit_head", "vae_decoder"}) {
        Pair pair("nan-" + name);
        const Chunk chunk{{0, 1, 2, 3, 4}, 0, 3};  // some component's NaN belongs to one class
        const std::string said = sentence_of<EngineError>([&] { pair.on_device(chunk, guided()); });
        CHECK(said == sentence_of<EngineError>([&] { pair.on_host(chunk, guided()); }));
        holds(said, name + " gave values that are not finite");
        CHECK(pair.device->trace.back() == "synchronize");
    }
}

TEST_CASE("a bundle without a decoder gives latents") {
    Pair pair("no-decoder");
    same(pair.on_device({{1, 2}, 0, 3}, guided()), pair.on_host({{1, 2}, 0, 3}, guided()));
    CHECK(std::isnan(pair.resident.engine_seconds()));
}

TEST_SUITE_END();
