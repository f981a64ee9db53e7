#include "engines/ort/engine.h"

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "machine/cpu_threads.h"
#include "engines/ort/fused_library.h"
#include "engines/ort/packed.h"
#include "engines/ort/row_parallel.h"
#include "error.h"
#include "text.h"

namespace himar::core {
namespace {

constexpr std::size_t kMostBindings = 256;

// How long an idle thread of a session waits for the next operator before it sleeps.
constexpr const char* kSpinMicroseconds = "100";

std::string first_line(const char* text) {
    const std::string whole = text;
    return whole.substr(0, whole.find('\n'));
}

ONNXTensorElementDataType element_type(Dtype dtype) {
    if (dtype == Dtype::kFloat32) return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    return dtype == Dtype::kFloat16 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
}

// What the lanes of one pipeline share: ONNX Runtime's sessions take runs from several threads.
struct Session {
    std::shared_ptr<cuda::CudaQueue> queue;  // whose stream the session works on, so it outlives the session; or null
    Ort::Env env;                            // counted by ONNX Runtime: all of a process are one
    Ort::Session session;
    std::optional<OpenFile> kept;  // keeps the files of the session's weights from being removed
    ComponentSpec spec;
    std::unique_ptr<Workers> workers;  // that split its rows, where the session has one thread itself; or null
    // Held while a run is queued on a GPU: lanes that share a stream also share the libraries' handles on it.
    std::mutex queueing;

    std::string device() const { return queue == nullptr ? "cpu" : queue->name(); }
};

// Bindings of every input and output to its place, one for each part of the rows.
struct Bound {
    std::vector<std::int64_t> key;  // addresses and shapes, in the order that the loop gives them
    std::vector<Ort::IoBinding> parts;
};

class OrtEngine final : public Engine {
public:
    explicit OrtEngine(std::shared_ptr<Session> session)
        : session_(std::move(session)), rows_(shared_rows(session_->spec).value_or(std::set<std::string>())) {
        without_waiting_.AddConfigEntry("disable_synchronize_execution_providers", "1");
    }

    const ComponentSpec& spec() const override { return session_->spec; }

    void run(Places places) override {
        write_key(places, key_);
        try {
            std::vector<Ort::IoBinding>& parts = bound_to(places).parts;
            const auto run_part = [&](std::size_t part) { session_->session.Run(Ort::RunOptions{nullptr}, parts[part]); };
            if (session_->queue == nullptr) {
                if (parts.size() == 1) return run_part(0);
                session_->workers->run(parts.size(), run_part);
                return;
            }
            const std::lock_guard<std::mutex> lock(session_->queueing);
            session_->session.Run(without_waiting_, parts.front());
        } catch (const Ort::Exception& error) {
            throw EngineError(spec().name + " failed on " + session_->device() + ": " + first_line(error.what()));
        }
    }

    void forget_places() override { bound_.clear(); }

    std::string without_recording() const override { return "ONNX Runtime's runs are not recorded in graphs of ours"; }

    std::unique_ptr<Engine> clone(const std::shared_ptr<Queue>&) const override {
        return std::make_unique<OrtEngine>(session_);
    }

private:
    // The most recently used bindings stand first; the last are given up beyond the most.
    Bound& bound_to(Places places) {
        const auto found = std::find_if(bound_.begin(), bound_.end(), [&](const Bound& b) { return b.key == key_; });
        if (found == bound_.end()) {
            Bound made = bind(places);
            if (bound_.size() == kMostBindings) bound_.pop_back();
            bound_.insert(bound_.begin(), std::move(made));
        } else {
            std::rotate(bound_.begin(), found, found + 1);
        }
        return bound_.front();
    }

    Bound bind(Places places) {
        check_count(spec(), places);
        Bound made{key_, {}};
        std::int64_t rows = 1, positions = 1;
        for (const Place& place : places) {
            if (!is_input(spec(), place)) rows = place.shape.sizes[0];
            positions = std::max(positions, place.shape.count() / place.shape.sizes[place.shape.rank - 1]);
        }
        std::vector<std::int64_t> edges = {0, rows};
        if (session_->workers != nullptr) edges = cuts(spec(), rows, positions, session_->workers->threads());
        for (std::size_t part = 0; part + 1 < edges.size(); ++part)
            made.parts.push_back(bind_rows(places, edges[part], edges[part + 1], edges.size() == 2));
        return made;
    }

    // A binding of the rows first … last of what has rows; `all`: of everything.
    Ort::IoBinding bind_rows(Places places, std::int64_t first, std::int64_t last, bool all) {
        Ort::IoBinding binding(session_->session);
        const Ort::MemoryInfo memory =
            session_->queue == nullptr
                ? Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault)
                : Ort::MemoryInfo("Cuda", OrtDeviceAllocator, session_->queue->index(), OrtMemTypeDefault);
        for (const Place& place : places) {
            const std::size_t size = size_of(place.dtype);
            Shape shape = place.shape;
            auto* address = static_cast<char*>(place.address);
            if (!all && rows_.count(place.name) > 0) {
                address += static_cast<std::size_t>(first * (shape.count() / shape.sizes[0])) * size;
                shape.sizes[0] = last - first;
            }
            const Ort::Value value = Ort::Value::CreateTensor(
                memory, address, static_cast<std::size_t>(shape.count()) * size, shape.sizes, shape.rank,
                element_type(place.dtype));
            if (is_input(spec(), place))
                binding.BindInput(place.name, value);
            else
                binding.BindOutput(place.name, value);
        }
        return binding;
    }

    std::shared_ptr<Session> session_;
    std::set<std::string> rows_;  // tensors that are split by rows
    Ort::RunOptions without_waiting_;
    std::vector<Bound> bound_;
    std::vector<std::int64_t> key_;  // kept, so that a run allocates nothing
};

// Append the CUDA provider, on the queue's stream.
void use_cuda(Ort::SessionOptions& options, const cuda::CudaQueue& queue) {
    const OrtApi& api = Ort::GetApi();
    OrtCUDAProviderOptionsV2* made = nullptr;
    Ort::ThrowOnError(api.CreateCUDAProviderOptions(&made));
    const std::unique_ptr<OrtCUDAProviderOptionsV2, decltype(api.ReleaseCUDAProviderOptions)> cuda(
        made, api.ReleaseCUDAProviderOptions);
    const std::string index = std::to_string(queue.index());
    // float32 must mean float32: TF32 matmuls would miss the model's numbers by a thousand times more.
    const char* const keys[] = {"device_id", "use_tf32", "cudnn_conv_algo_search"};
    const char* const values[] = {index.c_str(), "0", "HEURISTIC"};
    Ort::ThrowOnError(api.UpdateCUDAProviderOptions(made, keys, values, std::size(keys)));
    Ort::ThrowOnError(api.UpdateCUDAProviderOptionsWithValue(made, "user_compute_stream", queue.stream()));
    options.AppendExecutionProvider_CUDA_V2(*made);
}

// Let a half-precision session run what lies between matmuls in our operators.
void use_fused_operators(Ort::SessionOptions& options) {
    const std::optional<std::filesystem::path> library = fused_library();
    if (!library) return;
    try {
        options.RegisterCustomOpsLibrary(library->c_str());
    } catch (const Ort::Exception& error) {
        throw EngineError("ONNX Runtime cannot load " + library->string() + " (" + first_line(error.what()) +
                          "); compile it again, or set HIMAR_FUSED_LIBRARY to nothing to go without.");
    }
}

// Whether ONNX Runtime is of this version 1.x or a later one.
bool ort_is_from(int least) {
    int major = 0, minor = 0;
    std::sscanf(ort_version().c_str(), "%d.%d", &major, &minor);
    return major > 1 || (major == 1 && minor >= least);
}

// ONNX Runtime before 1.26 spins for milliseconds.
bool spins_briefly() { return ort_is_from(26); }

void check_device(const ComponentSpec& spec, const cuda::CudaQueue* queue) {
    if (queue == nullptr && spec.precision == "bf16")
        throw EngineError(spec.name + " is in bfloat16, which ONNX Runtime cannot run on the CPU; load the bundle on "
                                      "'cuda', or build it with --fp16 or --fp32.");
    if (queue == nullptr && spec.precision == "fp8" && !ort_is_from(24))
        throw EngineError(spec.name + " is in fp8, which ONNX Runtime " + ort_version() + " cannot run on the CPU (it has "
                                      "no QuantizeLinear of opset 23); install 1.24 or later, or build it with --fp16.");
    if (queue != nullptr && spec.precision == "int8")
        throw EngineError(spec.name + " is in int8, which is for the CPU only; load the bundle on 'cpu', or build it "
                                      "with --fp16.");
    if (queue == nullptr || ort_has_cuda()) return;
    throw EngineError("device " + queue->name() + " needs ONNX Runtime with CUDA, but the " + ort_version() +
                      " that this program found only has " + joined(Ort::GetAvailableProviders()) + "; give it the library of ONNX Runtime's GPU "
                      "package, or use device 'cpu'.");
}

}  // namespace

std::unique_ptr<Engine> load_ort_engine(const std::filesystem::path& path, const ComponentSpec& spec, int threads,
                                        const GraphContent& content, const std::shared_ptr<cuda::CudaQueue>& queue) {
    check_device(spec, queue.get());
    try {
        Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "himar");
        Ort::SessionOptions options;
        options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
        // To sleep between two operators costs more than most operators; to spin for longer than between two of them
        // would take the core from the next engine, and from the host between two runs.
        options.AddConfigEntry("session.intra_op.allow_spinning", spins_briefly() ? "1" : "0");
        options.AddConfigEntry("session.intra_op.spin_duration_us", kSpinMicroseconds);
        const int cores = threads > 0 ? threads : default_threads();
        std::unique_ptr<Workers> workers;
        if (queue == nullptr && cores > 1 && splits_rows(spec)) workers = std::make_unique<Workers>(cores);
        if (workers != nullptr)
            options.SetIntraOpNumThreads(1);
        else if (threads > 0 || threads_are_limited())
            options.SetIntraOpNumThreads(cores);  // else ONNX Runtime's own choice, one for each physical core
        if (queue != nullptr) {
            use_cuda(options, *queue);
            if (spec.precision == "fp16" || spec.precision == "bf16" || spec.precision == "fp8") use_fused_operators(options);
        }
        std::optional<PackedSession> packed;
        if (queue == nullptr && keeps_packed()) packed = packed_session(env, path, options, spec.weight_bytes, content);
        if (!packed) {
            content.check();
            packed = PackedSession{std::nullopt, Ort::Session(env, path.c_str(), options)};
        }
        return std::make_unique<OrtEngine>(std::shared_ptr<Session>(
            new Session{queue, std::move(env), std::move(packed->session), std::move(packed->used), spec, std::move(workers), {}}));
    } catch (const Ort::Exception& error) {
        const bool follows_no_links = std::string(error.what()).find("escapes model directory") != std::string::npos;
        if (follows_no_links && std::filesystem::is_symlink(path))
            throw EngineError(spec.name + " is a link, as in the Hub's cache, and ONNX Runtime " + ort_version() +
                              " takes no weights by way of links; copy the bundle with real files (cp -rL), or use "
                              "another version of it: all but 1.24 do.");
        throw EngineError(spec.name + " does not load on " + (queue == nullptr ? "cpu" : queue->name()) +
                          " with ONNX Runtime " + ort_version() + ": " + first_line(error.what()));
    }
}

std::string ort_version() { return Ort::GetVersionString(); }

bool ort_has_cuda() {
    const std::vector<std::string> providers = Ort::GetAvailableProviders();
    return std::find(providers.begin(), providers.end(), "CUDAExecutionProvider") != providers.end();
}

}  // namespace himar::core
