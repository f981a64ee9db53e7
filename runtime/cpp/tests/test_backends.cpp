// Which engines a build and a device can run: what cannot run is refused before anything is loaded, with what would.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "bundles.h"
#include "engines/networks.h"
#include "engines/ort/fused_library.h"
#include "engines/tensorrt/engine.h"
#include "error.h"
#include "himar/himar.hpp"

using namespace himar::core;

namespace {

// The tiny bundle with every engine said to be one of `backend`; its files are the ONNX graphs all the same.
class BuiltFor {
public:
    explicit BuiltFor(const std::string& backend) {
        copy_.edit([&](Json& manifest) {
            for (auto& component : manifest["components"]) component["engine"]["backend"] = backend;
        });
    }

    std::string refused(const LoadRequest& request) const {
        return sentence_of<EngineError>([&] { load_networks(Bundle::open(copy_.path()), request); });
    }

    const Copy& copy() const { return copy_; }

private:
    Copy copy_;
};

// Threads of this process.
std::ptrdiff_t threads_now() {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return std::distance(begin(tasks), end(tasks));
}

const LoadRequest kCpu{"cpu", "", 1}, kGpu{"cuda:0", "", 0};

}  // namespace

TEST_SUITE_BEGIN("backends");

TEST_CASE("engines of TensorRT need a GPU; their bundle's ONNX graphs run on the CPU") {
    for (const std::string backend : {"tensorrt", "tensorrt-rtx"}) {
        const BuiltFor built(backend);
        holds(built.refused(kCpu), " is an engine for " + backend + ", which needs an NVIDIA GPU; use device 'cuda', or "
                                   "backend 'onnxruntime' to run the bundle's ONNX graphs on the CPU.");
        const Networks graphs = load_networks(Bundle::open(built.copy().path()), {"cpu", "onnxruntime", 1});
        CHECK(graphs.engines.size() == 5);
        CHECK(graphs.queue->runs_at_once());
        holds(graphs.without_recording(), "ONNX Runtime");
    }
}

TEST_CASE("what this build cannot run on a GPU is named with what would") {
    holds(BuiltFor("tensorrt-rtx").refused(kGpu), "is an engine for tensorrt-rtx, which himar's C++ runtime does not run; use "
                                                  "backend 'onnxruntime' to run the bundle's ONNX graphs");
    if (!has_tensorrt())
        holds(BuiltFor("tensorrt").refused(kGpu), "is an engine for tensorrt, which this build of himar's C++ runtime was made "
                                                  "without; configure it with -DHIMAR_TENSORRT=ON");
    for (const LoadRequest& request : {kCpu, kGpu})
        holds(BuiltFor("coreml").refused(request), "is an engine for 'coreml', which this himar does not know: build the "
                                                   "bundle for onnxruntime or tensorrt, or install himar 0.1.0");
}

TEST_CASE("small networks split their rows among threads that are started once, and the images stay the same") {
    const Copy copy;
    copy.edit([](Json& manifest) {
        Json parts = Json::array();
        parts.push_back({{"name", "weights"}, {"bytes", 16 << 20}});  // as if a few positions were worth a thread
        for (const char* name : {"mlp_head", "dit_head", "vae_decoder"}) manifest["components"][name]["parts"] = parts;
    });
    const auto generate = [&](std::int32_t threads) {
        himar::Pipeline pipeline = himar::Pipeline::load(copy.path().string(), {"cpu", std::nullopt, threads});
        himar::Pipeline lane = pipeline.clone();
        himar::GenerateOptions options;
        options.labels = {0, 1, 2, 3};
        const std::ptrdiff_t loaded = threads_now();
        const himar::Result result = pipeline.generate(options);
        const std::ptrdiff_t started = threads_now() - loaded;
        lane.generate(options);
        CHECK(threads_now() - loaded == started);  // lanes share them
        return std::pair(std::vector(result.latents().begin(), result.latents().end()), started);
    };
    const auto [alone, none] = generate(1);
    const auto [split, started] = generate(3);
    CHECK(none == 0);
    CHECK(started == 3 * 2);
    REQUIRE(split.size() == alone.size());
    for (std::size_t i = 0; i < split.size(); ++i) CHECK(split[i] == doctest::Approx(alone[i]).epsilon(1e-4));
}

TEST_CASE("a GPU that is not there is refused, whatever the engines") {
    for (const char* backend : {"onnxruntime", "tensorrt"}) {
        if (!has_tensorrt() && std::string(backend) == "tensorrt") continue;
        holds(BuiltFor(backend).refused({"cuda:99", "", 0}), "cuda:99 is not a GPU that can be used here: ");
    }
}

TEST_CASE("a device is read whole") {
    CHECK(!Device::parse("cpu").is_gpu);
    CHECK((Device::parse("cuda").is_gpu && Device::parse("cuda").index == 0));
    CHECK((Device::parse("cuda:12").is_gpu && Device::parse("cuda:12").index == 12));
    for (const std::string text : {"", "gpu", "cuda:", "cuda:-1", "cuda:1x", "cuda:99999999999", "CPU", " cpu"})
        CHECK(sentence_of<EngineError>([&] { Device::parse(text); }) ==
              "device is '" + text + "'; it must be 'cpu', 'cuda' or 'cuda:N' with a GPU's number.");
}

TEST_CASE("places that are not a component's are refused before an engine takes them") {
    ComponentSpec spec;
    spec.name = "head";
    spec.inputs = {{"x", "float32", {std::string("rows")}}, {"timestep", "int64", {std::int64_t{1}}}};
    spec.outputs = {{"prediction", "float16", {std::string("rows")}}};
    float floats[1] = {};
    long long words[1] = {};
    CHECK(is_input(spec, Place("x", floats, {1})));
    CHECK(is_input(spec, Place("timestep", words, {1})));
    CHECK(sentence_of<EngineError>([&] { is_input(spec, Place("x", words, {1})); }) ==
          "head takes x as float32, where the loop has int64; build the bundle again.");
    CHECK(sentence_of<EngineError>([&] { is_input(spec, Place("prediction", floats, {1})); }) ==
          "head takes prediction as float16, where the loop has float32; build the bundle again.");
    CHECK(sentence_of<EngineError>([&] { is_input(spec, Place("y", floats, {1})); }) ==
          "head has no tensor y; build the bundle again.");
    CHECK(sentence_of<EngineError>([&] { check_count(spec, {Place("x", floats, {1})}); }) ==
          "head has 2 inputs and 1 outputs, where the loop has 1 tensors for them; build the bundle again.");
}

TEST_CASE("the operators' library is the file that the variable names, and its lack is said once") {
    constexpr const char* kVariable = "HIMAR_FUSED_LIBRARY";
    std::string said;
    const auto say = [&](const std::string& text) { said += text; };
    setenv(kVariable, "", 1);
    CHECK(!fused_library(say));
    CHECK(said.empty());
    setenv(kVariable, "/no/such.so", 1);
    CHECK(sentence_of<EngineError>([&] { fused_library(say); }) ==
          "$HIMAR_FUSED_LIBRARY is '/no/such.so', which is not a file; unset it, or set it to nothing to go without.");
    const Copy bundle;
    const std::string file = (bundle.path() / "manifest.json").string();
    setenv(kVariable, file.c_str(), 1);
    CHECK(fused_library(say) == std::filesystem::path(file));
    unsetenv(kVariable);
    for (int run = 0; run < 2; ++run) CHECK(!fused_library(say));
    CHECK(said == "half precision runs without our fused operators; compile them with `make cuda` and let "
                  "HIMAR_FUSED_LIBRARY name the library, or set it to nothing to go without.");
}

TEST_SUITE_END();
