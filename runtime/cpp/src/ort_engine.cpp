#include "ort_engine.h"

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <mutex>
#include <utility>

#include "cpu_threads.h"
#include "error.h"

namespace himar::core {
namespace {

constexpr std::size_t kMostBindings = 256;

std::string first_line(const char* text) {
    const std::string whole = text;
    return whole.substr(0, whole.find('\n'));
}

// What the lanes of one pipeline share: ONNX Runtime's sessions take runs from several threads.
struct Session {
    std::shared_ptr<cuda::CudaDevice> lane;  // whose stream the session works on, so it outlives the session; or null
    Ort::Env env;                            // counted by ONNX Runtime: all of a process are one
    Ort::Session session;
    ComponentSpec spec;
    // Held while a run is queued on a GPU: lanes that share a stream also share the libraries' handles on it.
    std::mutex queueing;

    std::string device() const { return lane == nullptr ? "cpu" : lane->name(); }
};

// A binding of every input and output to its place.
struct Bound {
    std::vector<std::int64_t> key;  // addresses and shapes, in the order that the loop gives them
    Ort::IoBinding binding;
};

class OrtEngine final : public Engine {
public:
    explicit OrtEngine(std::shared_ptr<Session> session) : session_(std::move(session)) {
        without_waiting_.AddConfigEntry("disable_synchronize_execution_providers", "1");
    }

    const ComponentSpec& spec() const override { return session_->spec; }

    void run(Places places) override {
        write_key(places, key_);
        try {
            Ort::IoBinding& binding = binding_for(places);
            if (session_->lane == nullptr) {
                session_->session.Run(Ort::RunOptions{nullptr}, binding);
                return;
            }
            const std::lock_guard<std::mutex> lock(session_->queueing);
            session_->session.Run(without_waiting_, binding);
        } catch (const Ort::Exception& error) {
            throw EngineError(spec().name + " failed on " + session_->device() + ": " + first_line(error.what()));
        }
    }

    void forget_places() override { bound_.clear(); }

    std::string without_recording() const override { return "ONNX Runtime's runs are not recorded in graphs of ours"; }

    std::unique_ptr<Engine> clone(const std::shared_ptr<ResidentDevice>&) const override {
        return std::make_unique<OrtEngine>(session_);
    }

private:
    // The most recently used binding stands first; the last is given up beyond the most.
    Ort::IoBinding& binding_for(Places places) {
        const auto found = std::find_if(bound_.begin(), bound_.end(), [&](const Bound& b) { return b.key == key_; });
        if (found == bound_.end()) {
            Bound made = bind(places);
            if (bound_.size() == kMostBindings) bound_.pop_back();
            bound_.insert(bound_.begin(), std::move(made));
        } else {
            std::rotate(bound_.begin(), found, found + 1);
        }
        return bound_.front().binding;
    }

    Bound bind(Places places) {
        check_count(spec(), places);
        Bound made{key_, Ort::IoBinding(session_->session)};
        const Ort::MemoryInfo memory =
            session_->lane == nullptr
                ? Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault)
                : Ort::MemoryInfo("Cuda", OrtDeviceAllocator, session_->lane->index(), OrtMemTypeDefault);
        for (const Place& place : places) {
            const auto count = static_cast<std::size_t>(place.shape.count());
            const bool is_float = place.dtype == Dtype::kFloat32;
            const Ort::Value value =
                is_float ? Ort::Value::CreateTensor<float>(memory, static_cast<float*>(place.address), count,
                                                           place.shape.sizes, place.shape.rank)
                         : Ort::Value::CreateTensor(memory, place.address, count * sizeof(std::int64_t),
                                                    place.shape.sizes, place.shape.rank,
                                                    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
            if (is_input(spec(), place))
                made.binding.BindInput(place.name, value);
            else
                made.binding.BindOutput(place.name, value);
        }
        return made;
    }

    std::shared_ptr<Session> session_;
    Ort::RunOptions without_waiting_;
    std::vector<Bound> bound_;
    std::vector<std::int64_t> key_;  // kept, so that a run allocates nothing
};

// Append the CUDA provider, on the lane's stream.
void use_cuda(Ort::SessionOptions& options, const cuda::CudaDevice& lane) {
    const OrtApi& api = Ort::GetApi();
    OrtCUDAProviderOptionsV2* made = nullptr;
    Ort::ThrowOnError(api.CreateCUDAProviderOptions(&made));
    const std::unique_ptr<OrtCUDAProviderOptionsV2, decltype(api.ReleaseCUDAProviderOptions)> cuda(
        made, api.ReleaseCUDAProviderOptions);
    const std::string index = std::to_string(lane.index());
    // float32 must mean float32: TF32 products would miss the model's numbers by a thousand times more.
    const char* const keys[] = {"device_id", "use_tf32", "cudnn_conv_algo_search"};
    const char* const values[] = {index.c_str(), "0", "HEURISTIC"};
    Ort::ThrowOnError(api.UpdateCUDAProviderOptions(made, keys, values, std::size(keys)));
    Ort::ThrowOnError(api.UpdateCUDAProviderOptionsWithValue(made, "user_compute_stream", lane.stream()));
    options.AppendExecutionProvider_CUDA_V2(*made);
}

// Let a half-precision session run what lies between products in our operators, from the library that
// $HIMAR_FUSED_LIBRARY names. Without it the graph's own functions run, which take more passes over memory.
void use_fused_operators(Ort::SessionOptions& options) {
    const char* const library = std::getenv("HIMAR_FUSED_LIBRARY");
    if (library == nullptr || *library == '\0') return;
    std::error_code unknown;
    if (!std::filesystem::is_regular_file(library, unknown))
        throw EngineError(std::string("$HIMAR_FUSED_LIBRARY is '") + library +
                          "', which is no file; unset it, or set it to nothing to go without.");
    try {
        options.RegisterCustomOpsLibrary(library);
    } catch (const Ort::Exception& error) {
        throw EngineError(std::string("ONNX Runtime cannot load ") + library + " (" + first_line(error.what()) +
                          "); compile it again, or set HIMAR_FUSED_LIBRARY to nothing to go without.");
    }
}

void check_device(const ComponentSpec& spec, const cuda::CudaDevice* lane) {
    if (lane == nullptr && spec.precision == "bf16")
        throw EngineError(spec.name + " is in bfloat16, which ONNX Runtime cannot run on the CPU; load the bundle on "
                                      "'cuda', or build it with --fp16 or --fp32.");
    if (lane != nullptr && spec.precision == "int8")
        throw EngineError(spec.name + " is in int8, which is for the CPU alone; load the bundle on 'cpu', or build it "
                                      "with --fp16.");
    if (lane == nullptr || ort_has_cuda()) return;
    std::string providers;
    for (const std::string& name : Ort::GetAvailableProviders()) providers += (providers.empty() ? "" : ", ") + name;
    throw EngineError("device " + lane->name() + " needs ONNX Runtime with CUDA, but the " + ort_version() +
                      " that this program found only has " + providers + "; give it the library of ONNX Runtime's GPU "
                      "package, or use device 'cpu'.");
}

}  // namespace

std::unique_ptr<Engine> load_ort_engine(const std::filesystem::path& path, const ComponentSpec& spec, int threads,
                                        const std::shared_ptr<cuda::CudaDevice>& lane) {
    check_device(spec, lane.get());
    try {
        Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "himar");
        Ort::SessionOptions options;
        options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
        // Idle threads of one engine must not spin while the next engine, or the host between two runs, computes.
        options.AddConfigEntry("session.intra_op.allow_spinning", "0");
        if (threads > 0)
            options.SetIntraOpNumThreads(threads);
        else if (threads_are_limited())
            options.SetIntraOpNumThreads(default_threads());  // else ONNX Runtime's own choice, one for each physical core
        if (lane != nullptr) {
            use_cuda(options, *lane);
            if (spec.precision == "fp16" || spec.precision == "bf16") use_fused_operators(options);
        }
        Ort::Session session(env, path.c_str(), options);
        return std::make_unique<OrtEngine>(
            std::shared_ptr<Session>(new Session{lane, std::move(env), std::move(session), spec, {}}));
    } catch (const Ort::Exception& error) {
        const bool follows_no_links = std::string(error.what()).find("escapes model directory") != std::string::npos;
        if (follows_no_links && std::filesystem::is_symlink(path))
            throw EngineError(spec.name + " is a link, as in the Hub's cache, and ONNX Runtime " + ort_version() +
                              " takes no weights by way of links; copy the bundle with real files (cp -rL), or use "
                              "another version of it: all but 1.24 do.");
        throw EngineError(spec.name + " does not load on " + (lane == nullptr ? "cpu" : lane->name()) +
                          " with ONNX Runtime " + ort_version() + ": " + first_line(error.what()));
    }
}

std::string ort_version() { return Ort::GetVersionString(); }

bool ort_has_cuda() {
    const std::vector<std::string> providers = Ort::GetAvailableProviders();
    return std::find(providers.begin(), providers.end(), "CUDAExecutionProvider") != providers.end();
}

}  // namespace himar::core
