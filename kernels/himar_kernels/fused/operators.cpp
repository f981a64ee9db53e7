// The operators of the domain "himar" for ONNX Runtime: what our half-precision graphs define as functions of standard
// operators, in one pass over memory each. nvcc makes the library for CUDA of this text, a C++ compiler that for the
// CPU, which tests compare with the functions. A session without the library runs the functions.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <memory>
#include <string>

#include "bodies.cuh"
#include "fp8.cuh"
#include "linear.cuh"

namespace {

using namespace himar::fused;

constexpr int kVector = 8;

template <class Function>
OrtStatusPtr guarded(const Function& function) noexcept {
    try {
        function();
        return nullptr;
    } catch (const Ort::Exception& error) {
        return Ort::GetApi().CreateStatus(error.GetOrtErrorCode(), error.what());
    } catch (const std::exception& error) {
        return Ort::GetApi().CreateStatus(ORT_FAIL, error.what());
    }
}

// Leaves `value` as it is where the node has no such attribute.
template <class Value>
void read(const Ort::ConstKernelInfo& info, const char* name, Value& value) {
    try {
        value = info.GetAttribute<Value>(name);
    } catch (const Ort::Exception&) {
    }
}

template <class Body>
struct RowKernel {
    Attributes attributes;

    explicit RowKernel(const Ort::ConstKernelInfo& info) {
        read(info, "epsilon", attributes.epsilon);
        read(info, "gate_part", attributes.gate_part);
        read(info, "scale_part", attributes.scale_part);
        read(info, "shift_part", attributes.shift_part);
    }

    OrtStatusPtr ComputeV2(OrtKernelContext* raw) noexcept {
        return guarded([&] {
            Call call(raw, Body::name(), attributes);
            if (call.in_vectors(Body::kInputs.size(), kVector)) {
                Body::template compute<kVector>(call);
            } else {
                Body::template compute<1>(call);
            }
        });
    }
};

template <class Body>
struct LinearKernel {
    LinearOptions options = LinearOptions::of_environment();

    explicit LinearKernel(const Ort::ConstKernelInfo&) { prepare_linear(); }

    OrtStatusPtr ComputeV2(OrtKernelContext* raw) noexcept {
        return guarded([&] {
            Call call(raw, Body::name(), {});
            Body::compute(call, options);
        });
    }
};

template <class Body, class Kernel>
struct Operator : Ort::CustomOpBase<Operator<Body, Kernel>, Kernel, true> {
    OrtStatusPtr CreateKernelV2(const OrtApi&, const OrtKernelInfo* raw, void** kernel) const noexcept {
        return guarded([&] { *kernel = std::make_unique<Kernel>(Ort::ConstKernelInfo(raw)).release(); });
    }
    const char* GetName() const {
        static const std::string name = Body::name();
        return name.c_str();
    }
    const char* GetExecutionProviderType() const { return kProvider; }
    std::size_t GetInputTypeCount() const { return Body::kInputs.size(); }
    ONNXTensorElementDataType GetInputType(std::size_t index) const { return Body::kInputs[index]; }
    std::size_t GetOutputTypeCount() const { return Body::kOutputs.size(); }
    ONNXTensorElementDataType GetOutputType(std::size_t index) const { return Body::kOutputs[index]; }
};

template <class Body, class Kernel>
const Operator<Body, Kernel> kOperator;

template <class... Bodies>
void add(Ort::CustomOpDomain& domain) {
    (domain.Add(&kOperator<Bodies, RowKernel<Bodies>>), ...);
}

template <class... Bodies>
void add_linear(Ort::CustomOpDomain& domain) {
    (domain.Add(&kOperator<Bodies, LinearKernel<Bodies>>), ...);
}

template <class T>
void add_all(Ort::CustomOpDomain& domain) {
    using Plain = NormFormula<T>;
    using Modulated = ModulatedNormFormula<T, T>;
    using ModulatedToFloat = ModulatedNormFormula<T, float>;
    using Gated = GatedResidualFormula<T>;
    add<NormBody<Plain>, NormBody<Modulated>, NormBody<ModulatedToFloat>, SumBody<ResidualFormula<T>>, SumBody<Gated>,
        SumAndNormBody<ResidualFormula<T>, Plain>, SumAndNormBody<Gated, Modulated>,
        SumAndNormBody<Gated, ModulatedToFloat>, BiasedBody<T, Gelu>, BiasedBody<T, GeluTanh>, BiasedBody<T, Silu>,
        BiasedBody<float, Silu, T>>(domain);
}

// fp8 stands between half-precision values, and between float32 ones of a condition.
void add_fp8(Ort::CustomOpDomain& domain) {
    using Plain = ToFp8<NormFormula<Fp8>>;
    using Modulated = ToFp8<ModulatedNormFormula<Half, Fp8>>;
    add<NormBody<Plain>, NormBody<Modulated>, SumAndNormBody<ResidualFormula<Half>, Plain>,
        SumAndNormBody<GatedResidualFormula<Half>, Modulated>, BiasedToFp8Body<Half, Gelu>,
        BiasedToFp8Body<Half, GeluTanh>, BiasedToFp8Body<Half, Silu>, BiasedToFp8Body<float, Silu>>(domain);
}

template <class T>
void add_all_linear(Ort::CustomOpDomain& domain) {
    add_linear<LinearBody<T, Identity>, LinearBody<T, GeluTanh>, LinearResidualBody<T>>(domain);
}

// The operators, made once for the process, with linear layers or without.
const Ort::CustomOpDomain& domain_of(bool linear) {
    const auto made = [](bool with) {
        Ort::CustomOpDomain domain("himar");
        add_all<Half>(domain);
        add_all<Brain>(domain);
        add_fp8(domain);
        if (with) add_all_linear<Half>(domain);
        if (with) add_all_linear<Brain>(domain);
        if (with) add_linear<LinearFp8Body, LinearGeluTanhFp8Body>(domain);
        return domain;
    };
    static const Ort::CustomOpDomain without = made(false), with = made(true);
    return linear ? with : without;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) OrtStatusPtr RegisterCustomOps(OrtSessionOptions* options,
                                                                                const OrtApiBase* base) {
    const OrtApi* const api = base->GetApi(ORT_API_VERSION);
    if (api == nullptr) {
        const std::string text = "himar's operators were compiled with the headers of ONNX Runtime 1." +
                                 std::to_string(ORT_API_VERSION) + ", and this is " + base->GetVersionString() +
                                 "; compile them with its own headers";
        return base->GetApi(1)->CreateStatus(ORT_FAIL, text.c_str());
    }
    static const bool ready = (Ort::InitApi(api), true);
    return guarded([&] {
        if (ready) Ort::UnownedSessionOptions(options).Add(domain_of(LinearOptions::of_environment().on));
    });
}
