// The loop on a GPU gives the images of the loop on the CPU: with engines of the CPU behind the GPU's queue,
// which shows loop and kernels alone, with ONNX Runtime's CUDA provider, and with a bundle's engines of TensorRT.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <thread>
#include <vector>

#include "../bundles.h"
#include "../chunks.h"
#include "../closeness.h"
#include "bundle/bundle.h"
#include "engines/ort/engine.h"
#include "families/hi_mar/lane.h"
#include "himar/himar.hpp"
#include "queue/cuda/queue.h"

using namespace himar::core;

namespace {

// An engine of the CPU on tensors of the GPU, by way of copies. What waits cannot be recorded.
class CopyingEngine final : public Engine {
public:
    CopyingEngine(std::unique_ptr<Engine> engine, std::shared_ptr<cuda::CudaQueue> lane)
        : engine_(std::move(engine)), lane_(std::move(lane)) {}

    const ComponentSpec& spec() const override { return engine_->spec(); }
    void run(Places places) override {
        std::vector<Place> here;
        for (const Place& place : places) {
            const auto bytes = static_cast<std::size_t>(place.shape.count()) * size_of(place.dtype);
            std::vector<char>& copy = copies_[place.name];
            copy.resize(std::max(copy.size(), bytes));
            here.push_back(place);
            here.back().address = copy.data();
            lane_->download(copy.data(), place.address, bytes);
        }
        engine_->forget_places();
        engine_->run(here);
        for (const Place& place : places) {
            const auto& inputs = spec().inputs;
            const auto is_it = [&](const TensorSpec& tensor) { return tensor.name == place.name; };
            if (std::any_of(inputs.begin(), inputs.end(), is_it)) continue;
            const auto bytes = static_cast<std::size_t>(place.shape.count()) * size_of(place.dtype);
            lane_->upload(place.address, copies_[place.name].data(), bytes);
        }
    }
    void forget_places() override { engine_->forget_places(); }
    std::string without_recording() const override { return "it copies"; }
    std::unique_ptr<Engine> clone(const std::shared_ptr<Queue>& lane) const override {
        return std::make_unique<CopyingEngine>(engine_->clone(nullptr), std::static_pointer_cast<cuda::CudaQueue>(lane));
    }

private:
    std::unique_ptr<Engine> engine_;
    std::shared_ptr<cuda::CudaQueue> lane_;
    std::map<std::string, std::vector<char>> copies_;
};

// A bundle's engines of the CPU behind a GPU's queue, those that only edits need too.
Networks copying(const Bundle& opened, const std::shared_ptr<cuda::CudaQueue>& device) {
    Networks networks = load_networks(opened, {"cpu", "", 1});
    for (const std::string& name : opened.manifest().model->deferred()) networks.need(name);
    networks.queue = device;
    for (auto* const all : {&networks.engines, &networks.late})
        for (auto& [name, engine] : *all) engine = std::make_unique<CopyingEngine>(std::move(engine), device);
    return networks;
}

// Images that differ everywhere, and a mask of a kind: a pixel, a half, all but a corner.
struct Given {
    explicit Given(std::int64_t kind) {
        for (std::size_t i = 0; i < images.size(); ++i) images[i] = static_cast<std::uint8_t>(i * 37 % 251);
        for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = kind == 0 ? i == 89 : kind == 1 ? i % 16 >= 8 : i >= 64 || i % 16 >= 4;
    }
    std::vector<std::uint8_t> images = std::vector<std::uint8_t>(3 * 3 * 16 * 16), mask = std::vector<std::uint8_t>(16 * 16);
};

himar::GenerateOptions request(std::uint64_t seed) { return options_of({3, 0, 1}, seed); }

// The first runs go directly, the second are recorded, the third replayed; those of seed 8 go by solvers without noise,
// those of seed 9 leave evaluations out, in chains of two lengths.
// Then four lanes at once.
void same_images(himar::Pipeline& gpu, himar::Pipeline& cpu, double most) {
    himar::GenerateOptions solved = request(8);
    solved.low_solver = HIMAR_SOLVER_DDIM, solved.high_solver = HIMAR_SOLVER_DPMPP;
    himar::GenerateOptions cheaper = request(9);
    cheaper.high_steps = 2, cheaper.high_diffusion_counts = "[30, 20]", cheaper.high_forecast = 3;
    cheaper.low_diffusion_steps = 20, cheaper.low_forecast = 4, cheaper.guidance_interval = 2;
    const himar::Result wanted = cpu.generate(request(7)), without_noise = cpu.generate(solved);
    const himar::Result left_out = cpu.generate(cheaper);
    for (int run = 0; run < 3; ++run) {
        const himar::Result made = gpu.generate(request(7));
        CHECK(relative(made.latents(), wanted.latents()) <= most);
        CHECK(relative(made.low_latents(), wanted.low_latents()) <= most);
        CHECK(pixels_apart(made.images(), wanted.images()) <= 2);
        CHECK(relative(gpu.generate(solved).latents(), without_noise.latents()) <= most);
        CHECK(relative(gpu.generate(cheaper).latents(), left_out.latents()) <= most);
    }
    std::vector<himar::Pipeline> lanes;
    std::vector<double> apart(4, 1);
    for (int lane = 0; lane < 4; ++lane) lanes.push_back(gpu.clone());
    std::vector<std::thread> threads;
    for (std::size_t lane = 0; lane < 4; ++lane)
        threads.emplace_back([&, lane] {
            for (int run = 0; run < 3; ++run)
                apart[lane] = relative(lanes[lane].generate(request(7)).latents(), wanted.latents());
        });
    for (std::thread& thread : threads) thread.join();
    for (const double each : apart) CHECK(each <= most);
}

}  // namespace

TEST_SUITE_BEGIN("gpu loop");

TEST_CASE("with engines of the CPU: loop and kernels alone") {
    const Bundle opened = Bundle::open(bundle("tiny"));
    const hi_mar::HiMarModel& model = static_cast<const hi_mar::HiMarModel&>(*opened.manifest().model);
    std::vector<hi_mar::Sampling> settings(
        3, static_cast<const hi_mar::Sampling&>(*opened.manifest().sampling.front().second));
    settings[1].low_solver = "dpm++", settings[1].high_solver = "ddim";
    settings[2].low_diffusion_steps = settings[2].high_diffusion_steps = 20;
    settings[2].low_forecast = 4, settings[2].high_forecast = 3, settings[2].guidance_interval = 2;
    hi_mar::HiMarLane host(load_networks(opened, {"cpu", "", 1}), model, opened.manifest().max_batch);
    const auto device = cuda::CudaQueue::open(0, false);
    hi_mar::HiMarLane resident(copying(opened, device), model, opened.manifest().max_batch);
    Chunk chunk = chunk_of({3, 0, 1}, 5, 11);
    const auto pixels = static_cast<std::size_t>(3 * model.img_size * model.img_size * 3);
    std::vector<std::uint8_t> wanted(pixels), made(pixels);
    for (const hi_mar::Sampling& sampling : settings) {
        chunk.origins[1] = {chunk.origins[1].seed + 1, 4294967295u, 0};  // another seed, also where graphs are replayed
        REQUIRE(host.run(chunk, sampling, {}, wanted.data()));
        int steps = 0;
        REQUIRE(resident.run(chunk, sampling, [&](const StepInfo&, const float*) { return ++steps > 0; }, made.data()));
        CHECK(steps == sampling.low_steps + sampling.high_steps);
        const std::array<std::int64_t, 4> shape{3, model.channels, model.grid(), model.grid()};
        const himar::View<float> found{resident.latents().data(), shape}, expected{host.latents().data(), shape};
        CHECK(relative(found, expected) <= kSameEngines);
        CHECK(pixels_apart(made, wanted) <= 1);
    }
}

TEST_CASE("edits, with engines of the CPU") {
    const Bundle opened = Bundle::open(bundle("tiny-edit"));
    const Model& model = *opened.manifest().model;
    const auto host = model.make_lane(opened, load_networks(opened, {"cpu", "", 1}));
    const auto resident = model.make_lane(opened, copying(opened, cuda::CudaQueue::open(0, false)));
    const Settings& setting = *opened.manifest().sampling.front().second;
    for (const std::int64_t kind : {0, 1, 2, 1}) {
        const Given given(kind);
        const Edit edit{given.images.data(), given.mask.data(), 3, 16, true};
        const Chunk chunk = chunk_of({3, 0, 1}, 5, 11, nullptr, &edit);
        REQUIRE(host->run(chunk, setting, {}, nullptr));
        for (int run = 0; run < 3; ++run) {
            REQUIRE(resident->run(chunk, setting, {}, nullptr));
            CHECK(relative(resident->latents(), host->latents()) <= kSameEngines);
            CHECK(relative(resident->low_latents(), host->low_latents()) <= kSameEngines);
        }
    }
}

TEST_CASE("edits, with ONNX Runtime's CUDA provider") {
    if (!ort_has_cuda()) {
        MESSAGE("not run: the ONNX Runtime of this build has no CUDA provider");
        return;
    }
    himar::Pipeline cpu = load(bundle("tiny-edit"));
    himar::Pipeline gpu = himar::Pipeline::load(bundle("tiny-edit").string(), {"cuda:0", std::nullopt, 0});
    for (const std::int64_t kind : {0, 1, 2}) {
        const Given given(kind);
        const himar::View<std::uint8_t> images{given.images.data(), {3, 16, 16, 3}}, mask{given.mask.data(), {1, 16, 16, 1}};
        for (const std::vector<std::int64_t>& labels : {std::vector<std::int64_t>{3, 0, 1}, std::vector<std::int64_t>{}}) {
            const himar::Result wanted = cpu.edit(images, mask, options_of(labels), {0, 1});
            const himar::Result made = gpu.edit(images, mask, options_of(labels), {0, 1});
            CHECK(relative(made.latents(), wanted.latents()) <= 1e-4);
            CHECK(pixels_apart(made.images(), wanted.images()) <= 2);
        }
    }
}

TEST_CASE("contexts of texts, with engines of the CPU") {
    const Bundle opened = Bundle::open(bundle("tiny-text"));
    const auto& model = static_cast<const hi_mar::HiMarModel&>(*opened.manifest().model);
    const auto host = model.make_lane(opened, load_networks(opened, {"cpu", "", 1}));
    const auto device = cuda::CudaQueue::open(0, false);
    const auto resident = model.make_lane(opened, copying(opened, device));
    std::vector<float> contexts(static_cast<std::size_t>(3 * model.context_size()));
    for (std::size_t i = 0; i < contexts.size(); ++i) contexts[i] = 0.1f * static_cast<float>(i % 17) - 0.8f;
    const Chunk chunk = chunk_of({-1, -1, -1}, 5, 11, nullptr, nullptr, {nullptr, contexts.data()});
    const Settings& setting = *opened.manifest().sampling.front().second;
    REQUIRE(host->run(chunk, setting, {}, nullptr));
    for (int run = 0; run < 3; ++run) {
        REQUIRE(resident->run(chunk, setting, {}, nullptr));
        CHECK(relative(resident->latents(), host->latents()) <= kSameEngines);
    }
}

TEST_CASE("prompts, with ONNX Runtime's CUDA provider") {
    if (!ort_has_cuda()) {
        MESSAGE("not run: the ONNX Runtime of this build has no CUDA provider");
        return;
    }
    himar::GenerateOptions options = options_of({}, 7);
    options.prompts = {"red", "two red", ""};
    const himar::Result wanted = load(bundle("tiny-text")).generate(options);
    himar::Pipeline gpu = himar::Pipeline::load(bundle("tiny-text").string(), {"cuda:0", std::nullopt, 0});
    for (int run = 0; run < 3; ++run) CHECK(relative(gpu.generate(options).latents(), wanted.latents()) <= 1e-4);
}

TEST_CASE("with ONNX Runtime's CUDA provider") {
    if (!ort_has_cuda()) {
        MESSAGE("not run: the ONNX Runtime of this build has no CUDA provider");
        const std::string said =
            sentence_of<himar::Error>([] { himar::Pipeline::load(bundle("tiny").string(), {"cuda:0", std::nullopt, 0}); });
        holds(said, "device cuda:0 needs ONNX Runtime with CUDA, but the " + ort_version() + " that this program found only has ");
        return;
    }
    himar::Pipeline cpu = load();
    himar::Pipeline gpu = himar::Pipeline::load(bundle("tiny").string(), {"cuda:0", std::nullopt, 0});
    same_images(gpu, cpu, 1e-4);
}

TEST_CASE("with a bundle's engines of TensorRT") {
    const char* const path = std::getenv("HIMAR_TENSORRT_BUNDLE");
    if (path == nullptr) {
        MESSAGE("skipped: HIMAR_TENSORRT_BUNDLE names no bundle built with --backend tensorrt on this machine");
        return;
    }
    himar::Pipeline cpu = himar::Pipeline::load(path, {"cpu", "onnxruntime", 0});
    himar::Pipeline gpu = himar::Pipeline::load(path, {"cuda:0", std::nullopt, 0});
    same_images(gpu, cpu, 1e-2);  // engines may be in half precision
}

TEST_SUITE_END();
