// The operators of the domain "himar" for ONNX Runtime: what our half-precision graphs define as functions of standard
// operators, in one pass over memory each. nvcc makes the library for CUDA of this text, a C++ compiler that for the
// CPU, which tests compare with the functions. A session without the library runs the functions.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "rows.cuh"

namespace {

using namespace himar::fused;

constexpr int kVector = 8;

#ifdef __CUDACC__
constexpr const char* kProvider = "CUDAExecutionProvider";
constexpr int kThreads = 256, kRows = kThreads / 32;

template <class Row>
__global__ void __launch_bounds__(kThreads) run_rows(std::int64_t count, Row row) {
    const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kRows + threadIdx.x / 32;
    if (index < count) row(Lane{static_cast<int>(threadIdx.x % 32), 32}, index);
}

template <class Row>
void run(const Row& row, std::int64_t count, const Ort::KernelContext& context) {
    if (count == 0) return;
    const auto blocks = static_cast<unsigned>((count + kRows - 1) / kRows);
    run_rows<<<blocks, kThreads, 0, static_cast<cudaStream_t>(context.GetGPUComputeStream())>>>(count, row);
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
        const bool other_gpu = error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion;
        const std::string advice = "; compile the operators for this GPU, or set HIMAR_FUSED_LIBRARY to nothing";
        throw Ort::Exception("the operator did not start, " + std::string(cudaGetErrorString(error)) +
                                 (other_gpu ? advice : ""),
                             ORT_FAIL);
    }
}
#else
constexpr const char* kProvider = nullptr;  // the CPU's

template <class Row>
void run(const Row& row, std::int64_t count, const Ort::KernelContext&) {
    for (std::int64_t index = 0; index < count; ++index) row(Lane{0, 1}, index);
}
#endif

template <class T>
constexpr ONNXTensorElementDataType kType = std::is_same_v<T, float>  ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
                                            : std::is_same_v<T, Half> ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
                                                                      : ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;

// The inputs and the output of a call: the first input's shape is the output's, its last axis a row.
class Call {
  public:
    Call(OrtKernelContext* raw, const char* name) : context(raw), name_(name), shape_(shape_of(0)) {
        width = shape_.empty() ? 1 : static_cast<int>(shape_.back());
        count = 1;
        for (std::size_t axis = 0; axis + 1 < shape_.size(); ++axis) count *= shape_[axis];
    }

    // Input `index`, which has the first one's shape, or is one row for all.
    template <class T>
    const T* rows(std::size_t index) const {
        require(shape_of(index) == shape_, index);
        return static_cast<const T*>(context.GetInput(index).GetTensorRawData());
    }
    template <class T>
    const T* row(std::size_t index) const {
        require(shape_of(index) == std::vector<std::int64_t>{width}, index);
        return static_cast<const T*>(context.GetInput(index).GetTensorRawData());
    }
    template <class T>
    T* output() const {
        return static_cast<T*>(context.GetOutput(0, shape_).GetTensorMutableRawData());
    }
    // Whether vectors of values can be read: rows of whole vectors, at addresses that fit.
    bool in_vectors(std::size_t inputs) const {
        bool fits = width % kVector == 0;
        for (std::size_t index = 0; index < inputs; ++index) {
            fits &= reinterpret_cast<std::uintptr_t>(context.GetInput(index).GetTensorRawData()) % 16 == 0;
        }
        return fits;
    }

    Ort::KernelContext context;
    int width;
    std::int64_t count;

  private:
    std::vector<std::int64_t> shape_of(std::size_t index) const {
        return context.GetInput(index).GetTensorTypeAndShapeInfo().GetShape();
    }
    static std::string words(const std::vector<std::int64_t>& shape) {
        std::string text;
        for (const std::int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
        return "(" + text + ")";
    }
    void require(bool fits, std::size_t index) const {
        if (!fits) {
            throw Ort::Exception("input " + std::to_string(index) + " of " + name_ + " is " + words(shape_of(index)) +
                                     ", which does not fit the first, " + words(shape_) + "; build the bundle anew",
                                 ORT_INVALID_ARGUMENT);
        }
    }

    const char* name_;
    std::vector<std::int64_t> shape_;
};

// Each body: its name, the types of its inputs and its output, and what a call runs. `with` gives V as a constant.
template <class Out>
struct NormBody {
    static constexpr const char* kName = std::is_same_v<Out, Half> ? "NormToHalf" : "NormToBfloat16";
    static constexpr std::array kInputs{kType<float>, kType<float>, kType<float>};
    static constexpr auto kOutput = kType<Out>;

    template <int V>
    static auto with(const Call& call, float epsilon) {
        return Norm<V, Out>{call.rows<float>(0), call.row<float>(1), call.row<float>(2),
                            call.output<Out>(),  call.width,         epsilon};
    }
};

template <class T, class Out>
struct ModulatedNormBody {
    static constexpr const char* kName = std::is_same_v<Out, float> ? "ModulatedNormToFloat" : "ModulatedNorm";
    static constexpr std::array kInputs{kType<float>, kType<float>, kType<float>, kType<T>,
                                        kType<T>,     kType<T>,     kType<T>};
    static constexpr auto kOutput = kType<Out>;

    template <int V>
    static auto with(const Call& call, float epsilon) {
        return ModulatedNorm<V, T, Out>{call.rows<float>(0), call.row<float>(1), call.row<float>(2), call.rows<T>(3),
                                        call.row<T>(4),      call.rows<T>(5),    call.row<T>(6),     call.output<Out>(),
                                        call.width,          epsilon};
    }
};

template <class T>
struct ResidualBody {
    static constexpr const char* kName = "Residual";
    static constexpr std::array kInputs{kType<float>, kType<T>, kType<T>};
    static constexpr auto kOutput = kType<float>;

    template <int V>
    static auto with(const Call& call, float) {
        return Residual<V, T>{call.rows<float>(0), call.rows<T>(1), call.row<T>(2), call.output<float>(), call.width};
    }
};

template <class T>
struct GatedResidualBody {
    static constexpr const char* kName = "GatedResidual";
    static constexpr std::array kInputs{kType<float>, kType<T>, kType<T>, kType<T>, kType<T>};
    static constexpr auto kOutput = kType<float>;

    template <int V>
    static auto with(const Call& call, float) {
        return GatedResidual<V, T>{call.rows<float>(0), call.rows<T>(1), call.row<T>(2), call.rows<T>(3),
                                   call.row<T>(4),      call.output<float>(), call.width};
    }
};

template <class T, class Activation>
struct BiasedBody {
    static constexpr const char* kName = std::is_same_v<Activation, Gelu>       ? "BiasGelu"
                                         : std::is_same_v<Activation, GeluTanh> ? "BiasGeluTanh"
                                                                                : "BiasSilu";
    static constexpr std::array kInputs{kType<T>, kType<T>};
    static constexpr auto kOutput = kType<T>;

    template <int V>
    static auto with(const Call& call, float) {
        return Biased<V, T, Activation>{call.rows<T>(0), call.row<T>(1), call.output<T>(), call.width};
    }
};

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

template <class Body>
struct Kernel {
    float epsilon = 1e-6f;

    OrtStatusPtr ComputeV2(OrtKernelContext* raw) noexcept {
        return guarded([&] {
            const Call call(raw, Body::kName);
            if (call.in_vectors(Body::kInputs.size())) {
                run(Body::template with<kVector>(call, epsilon), call.count, call.context);
            } else {
                run(Body::template with<1>(call, epsilon), call.count, call.context);
            }
        });
    }
};

template <class Body>
struct Operator : Ort::CustomOpBase<Operator<Body>, Kernel<Body>, true> {
    OrtStatusPtr CreateKernelV2(const OrtApi&, const OrtKernelInfo* raw, void** kernel) const noexcept {
        return guarded([&] {
            auto made = std::make_unique<Kernel<Body>>();
            const Ort::ConstKernelInfo info(raw);
            try {
                made->epsilon = info.GetAttribute<float>("epsilon");
            } catch (const Ort::Exception&) {  // operators without norms have none
            }
            *kernel = made.release();
        });
    }
    const char* GetName() const { return Body::kName; }
    const char* GetExecutionProviderType() const { return kProvider; }
    std::size_t GetInputTypeCount() const { return Body::kInputs.size(); }
    ONNXTensorElementDataType GetInputType(std::size_t index) const { return Body::kInputs[index]; }
    std::size_t GetOutputTypeCount() const { return 1; }
    ONNXTensorElementDataType GetOutputType(std::size_t) const { return Body::kOutput; }
};

template <class Body>
const Operator<Body> kOperator;

template <class... Bodies>
void add(Ort::CustomOpDomain& domain) {
    (domain.Add(&kOperator<Bodies>), ...);
}

template <class T>
void add_all(Ort::CustomOpDomain& domain) {
    add<NormBody<T>, ModulatedNormBody<T, T>, ModulatedNormBody<T, float>, ResidualBody<T>, GatedResidualBody<T>,
        BiasedBody<T, Gelu>, BiasedBody<T, GeluTanh>, BiasedBody<T, Silu>>(domain);
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
    static const Ort::CustomOpDomain domain = [api] {
        Ort::InitApi(api);
        Ort::CustomOpDomain made("himar");
        add_all<Half>(made);
        add_all<Brain>(made);
        return made;
    }();
    return guarded([&] { Ort::UnownedSessionOptions(options).Add(domain); });
}
