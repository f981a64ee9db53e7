// How the loop works with a GPU's queue: segments recorded and replayed, no waiting before the end, an idle device after it.
#include "error.h"
#include "lane_pair.h"
#include "seed_draws.h"

namespace {

// Draws that use another GPU, and fail where they are told to.
struct LeavingDraws final : SeedDraws {
    explicit LeavingDraws(TracingQueue& device) : SeedDraws(3), device_(device) {}
    void order(const himar_order_request& request, std::int64_t* order) override {
        SeedDraws::order(request, order);
        device_.is_current = false;
    }
    void noise(const himar_noise_request& request, float* noise) override {
        SeedDraws::noise(request, noise);
        device_.is_current = false;
        if (fails) noise[0] = NAN;
    }
    bool fails = false;

private:
    TracingQueue& device_;
};

}  // namespace

TEST_SUITE_BEGIN("lane");

TEST_CASE("segments run once, are recorded once and then replayed") {
    Pair pair;
    const Sampling sampling = guided();
    const Chunk chunk = chunk_of({1, 2}, 0, 3), other = chunk_of({1, 2}, 0, 4);
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

TEST_CASE("where evaluations are left out, heads run where the settings say, and every reverse step has a prediction") {
    Pair pair("tiny", "segments run directly");
    const Chunk chunk = chunk_of({1, 2}, 0, 3);
    pair.on_device(chunk, forecast());
    CHECK(pair.device->count("mlp_head") == 3 * 6);  // of 12 reverse steps in each of 3 autoregressive ones
    CHECK(pair.device->count("dit_head") == 2 * 6);  // of 10 in each of 2
    CHECK(pair.device->count("himar_keep_prediction") == 3 * 6 + 2 * 6);
    CHECK(pair.device->count("himar_forecast") == 3 * 6 + 2 * 4);
    CHECK(pair.device->count("himar_mlp_step") == 3 * 12);
    CHECK(pair.device->count("himar_dit_step") == 2 * 10);
    pair.device->trace.clear();
    Sampling alone = guided();
    alone.guidance_interval = 2;
    pair.on_device(chunk, alone);
    CHECK(pair.device->count("himar_keep_prediction") == 3 * 6 + 2 * 5);
    CHECK(pair.device->count("himar_forecast") == 0);
    pair.device->trace.clear();
    pair.on_device(chunk, guided());
    CHECK(pair.device->count("himar_keep_prediction") == 0);
}

TEST_CASE("half-evaluated, full and forecast reverse steps have graphs of their own") {
    Pair pair;
    Sampling sampling = forecast();
    sampling.guidance_interval = 2;
    const Chunk chunk = chunk_of({1, 2}, 0, 3);
    const Made wanted = pair.on_device(chunk, sampling);
    for (int run = 0; run < 2; ++run) CHECK(pair.on_device(chunk, sampling).latents == wanted.latents);
    pair.device->trace.clear();
    CHECK(pair.on_device(chunk, sampling).latents == wanted.latents);
    CHECK(pair.device->count("mlp_head") == 0);
    CHECK(pair.device->count("replay") == 3 * 12 + 2 * 10 + 3 + 2 + 1);
    same(wanted, pair.on_host(chunk, sampling));
    sampling.forecast_order = 0;  // its graphs differ, or these were the images of order 1
    for (int run = 0; run < 3; ++run) same(pair.on_device(chunk, sampling), pair.on_host(chunk, sampling));
    CHECK(relative(pair.on_host(chunk, sampling).latents, wanted.latents) > 100 * kSameEngines);
}

TEST_CASE("a chain travels to the device where it is another than that of the phase's step before") {
    Pair pair;
    const Chunk chunk = chunk_of({1, 2}, 0, 3);
    pair.on_device(chunk, guided());
    const long once = pair.device->count("upload");
    pair.device->trace.clear();
    pair.on_device(chunk, listed());  // of 6, 6 and 4 steps, and of 5 and 3
    CHECK(pair.device->count("upload") == once + 2 * 2);
    CHECK(pair.device->count("synchronize") == 0);
}

TEST_CASE("nothing waits for the device before the end") {
    Pair pair;
    pair.on_device(chunk_of({1, 2}, 0, 3), guided());
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
    const Chunk chunk = chunk_of({1, 2}, 0, 3);
    const Sampling sampling = guided();
    std::vector<std::vector<float>> wanted, found;
    const auto size = static_cast<std::ptrdiff_t>(2 * pair.model().channels * pair.model().low_positions());
    pair.run(pair.host, chunk, sampling, [&](const StepInfo&, const float* low) {
        wanted.emplace_back(low, low + size);
        return true;
    });
    const Made all = pair.on_device(chunk, sampling, [&](const StepInfo& step, const float* low) {
        CHECK(step.index == (found.size() < 3 ? static_cast<int>(found.size()) : static_cast<int>(found.size()) - 3));
        found.emplace_back(low, low + size);
        CHECK(pair.device->count("mark") == std::min<long>(static_cast<long>(found.size()) + 1, 5));
        return true;
    });
    REQUIRE(found.size() == 5);
    for (std::size_t i = 0; i < 5; ++i) {
        CHECK(relative(found[i], wanted[i]) <= kSameEngines);
        // Positions that are not revealed yet are 0 in both.
        CHECK(std::count(found[i].begin(), found[i].end(), 0.0f) == std::count(wanted[i].begin(), wanted[i].end(), 0.0f));
    }
    for (int last = 0; last < 5; ++last) {
        int calls = 0;
        const Made made = pair.on_device(chunk, sampling, [&](const StepInfo&, const float*) { return calls++ < last; });
        CHECK(!made.finished);
        CHECK(calls == last + 1);
        CHECK(pair.device->trace.back() == "synchronize");  // an idle device
    }
    CHECK(pair.on_device(chunk, sampling).latents == all.latents);
}

TEST_CASE("the images so far are those of the step that is told, one step behind") {
    Pair pair;
    const Chunk chunk = chunk_of({1, 2}, 0, 3);
    std::vector<std::vector<std::uint8_t>> wanted, found;
    const auto keep = [](PreviewPixels made, std::vector<std::vector<std::uint8_t>>& all) {
        all.emplace_back(made.pixels, made.pixels + 2 * made.side * made.side * 3);
        return true;
    };
    pair.run(pair.host, chunk, guided(), [&](const StepInfo&, const float*) { return keep(pair.host.so_far(0, 2), wanted); });
    pair.on_device(chunk, guided(), [&](const StepInfo&, const float*) { return keep(pair.resident.so_far(0, 2), found); });
    REQUIRE(found.size() == 5);
    CHECK(found[4].size() > found[2].size());
    for (std::size_t i = 0; i < 5; ++i) CHECK(pixels_apart(found[i], wanted[i]) <= 1);
}

TEST_CASE("what a callback throws comes out, and leaves an idle device") {
    Pair pair;
    CHECK_THROWS_AS(pair.on_device(chunk_of({1}, 0, 3), guided(), [](const StepInfo&, const float*) -> bool { throw 7; }), int);
    CHECK(pair.device->trace.back() == "synchronize");
    same(pair.on_device(chunk_of({1}, 0, 3), guided()), pair.on_host(chunk_of({1}, 0, 3), guided()));
}

TEST_CASE("a user's functions may leave another GPU behind") {
    Pair pair;
    const Chunk chunk = chunk_of({1, 2}, 0, 3);
    const Made wanted = pair.on_host(chunk, guided());
    same(pair.on_device(chunk, guided(), [&](const StepInfo&, const float*) {
        pair.device->is_current = false;
        CHECK(pair.resident.preview(0, 2).side > 0);
        pair.device->is_current = false;
        return true;
    }), wanted);
    LeavingDraws leaving(*pair.device);
    const himar_draws draws = c_draws(leaving);
    const Chunk drawn = chunk_of({1, 2}, 0, 0, &draws);
    same(pair.on_device(drawn, guided()), wanted);
    leaving.fails = true;
    CHECK_THROWS_AS(pair.on_device(drawn, guided()), InputError);
    CHECK(pair.device->trace.back() == "synchronize");
    CHECK_THROWS_AS(pair.on_device(chunk, guided(), [&](const StepInfo&, const float*) -> bool {
        pair.device->is_current = false;
        throw 7;
    }), int);
    CHECK(pair.device->trace.back() == "synchronize");
}

TEST_CASE("graphs of another epoch are not replayed") {
    Pair pair;
    const Chunk chunk = chunk_of({1, 2}, 0, 3);
    for (int run = 0; run < 2; ++run) pair.on_device(chunk, guided());
    const Made wanted = pair.on_device(chunk, guided());
    ++pair.device->epoch_now;
    pair.device->trace.clear();
    CHECK(pair.on_device(chunk, guided()).latents == wanted.latents);
    CHECK(pair.device->count("transformer_low") == 3);
}

TEST_CASE("where engines or the device refuse to be recorded, segments run directly") {
    const Chunk chunk = chunk_of({1, 2}, 0, 3);
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
    TracingQueue device;
    Replays replays(device, [] { return std::string(); });
    int runs = 0;
    const auto run = [&](std::int64_t number) { replays.run({number, 0, 0, 0, 0, 0}, [&] { device.queue("work", [&] { ++runs; }); }); };
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

TEST_SUITE_END();
