#include "ort_engine.h"

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstring>
#include <utility>

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
    Ort::Env env;  // counted by ONNX Runtime: all of a process are one
    Ort::Session session;
    ComponentSpec spec;
};

// A binding of every input and output to its place.
struct Bound {
    std::vector<std::int64_t> key;  // addresses and shapes, in the order that the loop gives them
    Ort::IoBinding binding;
};

void write_key(Places places, std::vector<std::int64_t>& key) {
    key.clear();
    for (const Place& place : places) {
        key.push_back(static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(place.address)));
        key.insert(key.end(), place.shape.sizes, place.shape.sizes + place.shape.rank);
    }
}

class OrtEngine final : public Engine {
public:
    explicit OrtEngine(std::shared_ptr<Session> session) : session_(std::move(session)) {}

    const ComponentSpec& spec() const override { return session_->spec; }

    void run(Places places) override {
        write_key(places, key_);
        try {
            session_->session.Run(Ort::RunOptions{nullptr}, binding_for(places));
        } catch (const Ort::Exception& error) {
            throw EngineError(spec().name + " failed on cpu: " + first_line(error.what()));
        }
    }

    void forget_places() override { bound_.clear(); }

    std::unique_ptr<Engine> clone() const override { return std::make_unique<OrtEngine>(session_); }

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
        if (places.size() != spec().inputs.size() + spec().outputs.size())
            throw EngineError(spec().name + " has " + std::to_string(spec().inputs.size()) + " inputs and " +
                              std::to_string(spec().outputs.size()) + " outputs, where the loop has " +
                              std::to_string(places.size()) + " tensors for them; build the bundle again.");
        Bound made{key_, Ort::IoBinding(session_->session)};
        const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
        for (const Place& place : places) {
            const auto count = static_cast<std::size_t>(place.shape.count());
            const bool is_float = place.dtype == Dtype::kFloat32;
            const Ort::Value value =
                is_float ? Ort::Value::CreateTensor<float>(memory, static_cast<float*>(place.address), count,
                                                           place.shape.sizes, place.shape.rank)
                         : Ort::Value::CreateTensor(memory, place.address, count * sizeof(std::int64_t),
                                                    place.shape.sizes, place.shape.rank,
                                                    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
            if (is_named(spec().inputs, place))
                made.binding.BindInput(place.name, value);
            else if (is_named(spec().outputs, place))
                made.binding.BindOutput(place.name, value);
            else
                throw EngineError(spec().name + " has no tensor " + place.name + "; build the bundle again.");
        }
        return made;
    }

    bool is_named(const std::vector<TensorSpec>& tensors, const Place& place) const {
        const auto found = std::find_if(tensors.begin(), tensors.end(),
                                        [&](const TensorSpec& tensor) { return tensor.name == place.name; });
        if (found == tensors.end()) return false;
        const char* const dtype = place.dtype == Dtype::kFloat32 ? "float32" : "int64";
        if (found->dtype != dtype)
            throw EngineError(spec().name + " takes " + place.name + " as " + found->dtype + ", where the loop has " +
                              dtype + "; build the bundle again.");
        return true;
    }

    std::shared_ptr<Session> session_;
    std::vector<Bound> bound_;
    std::vector<std::int64_t> key_;  // kept, so that a run allocates nothing
};

}  // namespace

std::unique_ptr<Engine> load_ort_engine(const std::filesystem::path& path, const ComponentSpec& spec, int threads) {
    if (spec.precision == "bf16")
        throw EngineError(spec.name + " is in bfloat16, which ONNX Runtime cannot run on the CPU; load the bundle on "
                                      "'cuda' with himar's Python runtime, or build it with --fp16 or --fp32.");
    try {
        Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "himar");
        Ort::SessionOptions options;
        options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
        // Idle threads of one engine must not spin while the next engine, or the host between two runs, computes.
        options.AddConfigEntry("session.intra_op.allow_spinning", "0");
        if (threads > 0) options.SetIntraOpNumThreads(threads);
        Ort::Session session(env, path.c_str(), options);
        return std::make_unique<OrtEngine>(
            std::make_shared<Session>(Session{std::move(env), std::move(session), spec}));
    } catch (const Ort::Exception& error) {
        throw EngineError(spec.name + " does not load on cpu with ONNX Runtime " + ort_version() + ": " +
                          first_line(error.what()));
    }
}

std::string ort_version() { return Ort::GetVersionString(); }

}  // namespace himar::core
