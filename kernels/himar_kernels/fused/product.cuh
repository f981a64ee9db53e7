// Products of matrices with what follows them, y = GELU(x·W + bias) or x·W + bias + total: by cuBLASLt on a GPU, by
// plain loops on the CPU.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "call.cuh"
#include "rows.cuh"

#ifdef __CUDACC__
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>

#include "cublas_lt.cuh"
#endif

namespace himar::fused {

// The type of a bias: that of the result, but fp8 results have one in half precision.
template <class Out>
using BiasOf = std::conditional_t<std::is_same_v<Out, Fp8>, Half, Out>;

// x (rows, depth), W (depth, width), bias (width), total and y (rows, width), each row by row. Sums are float32. In fp8,
// whose matmuls want both with `depth` last, W is (width, depth); x and W are in units of their steps, y of 1/`inverse`.
template <class T, class Out>
struct Product {
    const T *x, *weight;
    const BiasOf<Out>* bias;  // null: none
    const Out* total;         // null: none
    Out* y;
    std::int64_t rows, depth, width;
    bool gelu;  // its tanh form
    const float *step = nullptr, *weight_step = nullptr, *inverse = nullptr;
};

#ifndef __CUDACC__
struct Scratch {
    Scratch(const Ort::KernelContext&, std::size_t bytes) : held(bytes), address(held.data()) {}

    std::vector<char> held;
    void* address;
};

template <class Out>
bool multiply(const Product<Fp8, Out>& product, const Ort::KernelContext&, bool) {
    const float unit = *product.step * *product.weight_step;
    for (std::int64_t row = 0; row < product.rows; ++row) {
        for (std::int64_t n = 0; n < product.width; ++n) {
            float sum = 0.0f;
            for (std::int64_t k = 0; k < product.depth; ++k) {
                sum += to_float(product.x[row * product.depth + k]) * to_float(product.weight[n * product.depth + k]);
            }
            float value = sum * unit;
            if (product.bias != nullptr) value += to_float(product.bias[n]);
            if (product.gelu) value = GeluTanh::of(value);
            if (product.inverse != nullptr) value *= *product.inverse;
            from_float(value, product.y[row * product.width + n]);
        }
    }
    return true;
}

template <class T, class Out>
bool multiply(const Product<T, Out>& product, const Ort::KernelContext&, bool) {
    std::vector<float> sums(static_cast<std::size_t>(product.width));
    for (std::int64_t row = 0; row < product.rows; ++row) {
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (std::int64_t k = 0; k < product.depth; ++k) {
            const float x = to_float(product.x[row * product.depth + k]);
            const T* const weights = product.weight + k * product.width;
            for (std::int64_t n = 0; n < product.width; ++n) sums[n] += x * to_float(weights[n]);
        }
        for (std::int64_t n = 0; n < product.width; ++n) {
            const std::int64_t at = row * product.width + n;
            float value = sums[n];
            if (product.bias != nullptr) value += to_float(product.bias[n]);
            if (product.total != nullptr) value += to_float(product.total[at]);
            from_float(product.gelu ? GeluTanh::of(value) : value, product.y[at]);
        }
    }
    return true;
}
#else
template <class T>
constexpr lt::Type kLtType = std::is_same_v<T, float>  ? lt::kFloat32
                             : std::is_same_v<T, Half> ? lt::kFloat16
                             : std::is_same_v<T, Fp8>  ? lt::kE4m3
                                                       : lt::kBfloat16;

template <class T>
constexpr bool kTurned = std::is_same_v<T, Fp8>;

// Memory of ONNX Runtime's for the length of a call, given back in the order of the stream.
class Scratch {
  public:
    Scratch(const Ort::KernelContext& context, std::size_t bytes) : allocator_(nullptr, Ort::GetApi().ReleaseAllocator) {
        if (bytes == 0) return;
        const OrtMemoryInfo* const memory = context.GetInput(0).GetTensorMemoryInfo();
        allocator_.reset(context.GetAllocator(*memory));
        OrtKernelContext* const raw = context.GetOrtKernelContext();
        Ort::ThrowOnError(Ort::GetApi().KernelContext_GetScratchBuffer(raw, memory, bytes, &address));
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() {
        if (address != nullptr) allocator_->Free(allocator_.get(), address);
    }

    void* address = nullptr;

  private:
    std::unique_ptr<OrtAllocator, void (*)(OrtAllocator*)> allocator_;
};

// A product as cuBLASLt sees it, column by column: yᵀ = Wᵀ·xᵀ, for which nothing is transposed. A bias is then a value
// for each row, which is what its epilogues add.
class Problem {
  public:
    template <class T, class Out>
    explicit Problem(const Product<T, Out>& product)
        : library_(lt::Library::get()),
          size_{product.rows, product.depth, product.width},
          a_(product.weight),
          b_(product.x),
          c_(product.total == nullptr ? product.y : product.total),
          d_(product.y),
          beta_(product.total == nullptr ? 0.0f : 1.0f),
          epilogue_(product.gelu ? lt::kGeluBias : product.bias == nullptr ? lt::kNothing : lt::kBias),
          types_{kLtType<T>, kLtType<Out>},
          description_(lt::description(library_)),
          layout_a_(lt::layout(library_, types_[0], kTurned<T> ? product.depth : product.width,
                               kTurned<T> ? product.width : product.depth)),
          layout_b_(lt::layout(library_, types_[0], product.depth, product.rows)),
          layout_c_(lt::layout(library_, kLtType<BiasOf<Out>>, product.width, product.rows)),
          layout_d_(lt::layout(library_, types_[1], product.width, product.rows)) {
        lt::set(library_, description_, lt::kEpilogue, epilogue_);
        if (product.bias != nullptr) lt::set(library_, description_, lt::kBiasPointer, product.bias);
        if constexpr (kTurned<T>) {
            lt::set(library_, description_, lt::kTurnA, std::int32_t{1});
            lt::set(library_, description_, lt::kScaleOfA, product.weight_step);
            lt::set(library_, description_, lt::kScaleOfB, product.step);
        }
        if constexpr (std::is_same_v<Out, Fp8>) {
            lt::set(library_, description_, lt::kBiasType, kLtType<BiasOf<Out>>);
            lt::set(library_, description_, lt::kScaleOfD, product.inverse);
        }
    }

    // Whether it runs at all: not where cuBLASLt has no algorithm with this epilogue.
    bool run(const Ort::KernelContext& context, bool tune) const {
        const auto stream = static_cast<cudaStream_t>(context.GetGPUComputeStream());
        int device = 0;
        require_cuda(cudaGetDevice(&device));
        const auto [handle, chosen] = chosen_for(device, [&](lt::Handle handle) { return choose(handle, context, stream, tune); });
        if (!chosen.exists) return false;
        const Scratch workspace(context, chosen.workspace);
        library_.require(start(handle, chosen, workspace.address, stream), "multiply " + words());
        return true;
    }

  private:
    struct Choice {
        bool exists;
        lt::Algorithm algorithm;
        std::size_t workspace;
    };
    using Key = std::array<std::int64_t, 12>;

    static constexpr std::size_t kMostWorkspace = std::size_t{32} << 20;  // what NVIDIA advises on Hopper
    static constexpr std::size_t kMostChoices = 4096;
    static constexpr int kCandidates = 8, kTimes = 3;

    // What was chosen for this device, sizes, types, epilogue and alignment, once for the process: two runs are equal
    // bit for bit. Beyond kMostChoices nothing is kept, and each call asks again.
    template <class Choose>
    std::pair<lt::Handle, Choice> chosen_for(int device, const Choose& choose) const {
        static std::mutex mutex;
        static std::map<int, lt::Handle> handles;  // never destroyed: the CUDA driver may be gone by then
        static std::map<Key, Choice> choices;
        const std::lock_guard<std::mutex> lock(mutex);
        lt::Handle& handle = handles[device];
        if (handle == nullptr) library_.require(library_.create(&handle), "start");
        const Key key{device,        size_[0],      size_[1],      size_[2],      types_[0],     types_[1],
                      epilogue_,     beta_ != 0.0f, alignment(a_), alignment(b_), alignment(c_), alignment(d_)};
        if (const auto kept = choices.find(key); kept != choices.end()) return {handle, kept->second};
        const Choice made = choose(handle);
        if (choices.size() < kMostChoices) choices.emplace(key, made);
        return {handle, made};
    }

    // The first of cuBLASLt's list; with `tune` the fastest of it, where it can be run more than once.
    Choice choose(lt::Handle handle, const Ort::KernelContext& context, cudaStream_t stream, bool tune) const {
        cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
        require_cuda(cudaStreamIsCapturing(stream, &capturing));
        const bool times = tune && capturing == cudaStreamCaptureStatusNone && !(beta_ != 0.0f && c_ == d_);
        std::vector<lt::Found> found(times ? kCandidates : 1);
        found.resize(candidates(handle, found));
        if (found.empty()) return {};
        const auto choice_of = [](const lt::Found& each) { return Choice{true, each.algorithm, each.workspace}; };
        if (!times) return choice_of(found[0]);
        std::size_t most = 0;
        for (const lt::Found& each : found) most = std::max(most, each.workspace);
        const Scratch workspace(context, most);
        Choice best = choice_of(found[0]);
        float least = -1.0f;
        for (const lt::Found& each : found) {
            const Choice candidate = choice_of(each);
            const float taken = time(handle, candidate, workspace.address, stream);
            if (taken < 0.0f || (least >= 0.0f && taken >= least)) continue;
            least = taken;
            best = candidate;
        }
        return best;
    }

    std::size_t candidates(lt::Handle handle, std::vector<lt::Found>& found) const {
        const auto preference = lt::preference(library_);
        lt::prefer(library_, preference, lt::kMostWorkspace, kMostWorkspace);
        lt::prefer(library_, preference, lt::kAlignmentOfA, alignment(a_));
        lt::prefer(library_, preference, lt::kAlignmentOfB, alignment(b_));
        lt::prefer(library_, preference, lt::kAlignmentOfC, alignment(c_));
        lt::prefer(library_, preference, lt::kAlignmentOfD, alignment(d_));
        int count = 0;
        const lt::Status status = library_.algorithms(
            handle, description_.get(), layout_a_.get(), layout_b_.get(), layout_c_.get(), layout_d_.get(),
            preference.get(), static_cast<int>(found.size()), found.data(), &count);
        if (status == kNotSupported) return 0;
        library_.require(status, "choose an algorithm for " + words());
        std::size_t usable = 0;
        while (usable < static_cast<std::size_t>(count) && found[usable].state == 0) ++usable;
        return usable;
    }

    // Milliseconds of kTimes runs after one that is not counted; -1 where it does not start.
    float time(lt::Handle handle, const Choice& choice, void* workspace, cudaStream_t stream) const {
        if (start(handle, choice, workspace, stream) != 0) return -1.0f;
        cudaEvent_t begin = nullptr, end = nullptr;
        require_cuda(cudaEventCreate(&begin));
        require_cuda(cudaEventCreate(&end));
        require_cuda(cudaEventRecord(begin, stream));
        for (int i = 0; i < kTimes; ++i) start(handle, choice, workspace, stream);
        require_cuda(cudaEventRecord(end, stream));
        require_cuda(cudaEventSynchronize(end));
        float taken = 0.0f;
        require_cuda(cudaEventElapsedTime(&taken, begin, end));
        cudaEventDestroy(begin);
        cudaEventDestroy(end);
        return taken;
    }

    lt::Status start(lt::Handle handle, const Choice& choice, void* workspace, cudaStream_t stream) const {
        const float alpha = 1.0f;
        return library_.matmul(handle, description_.get(), &alpha, a_, layout_a_.get(), b_, layout_b_.get(), &beta_, c_,
                               layout_c_.get(), d_, layout_d_.get(), &choice.algorithm, workspace, choice.workspace,
                               stream);
    }

    // Of an address in bytes, as far as an algorithm may ask for.
    static std::uint32_t alignment(const void* address) {
        const auto bits = reinterpret_cast<std::uintptr_t>(address);
        return static_cast<std::uint32_t>(std::min<std::uintptr_t>(256, bits & (~bits + 1)));
    }

    static void require_cuda(cudaError_t error) {
        if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
    }

    std::string words() const {
        return "(" + std::to_string(size_[0]) + ", " + std::to_string(size_[1]) + ") by (" + std::to_string(size_[1]) +
               ", " + std::to_string(size_[2]) + ")";
    }

    static constexpr lt::Status kNotSupported = 15;

    const lt::Library& library_;
    std::array<std::int64_t, 3> size_;  // rows, depth, width
    const void *a_, *b_, *c_;
    void* d_;
    float beta_;
    lt::Epilogue epilogue_;
    std::array<lt::Type, 2> types_;
    lt::Owned<lt::Description> description_;
    lt::Owned<lt::Layout> layout_a_, layout_b_, layout_c_, layout_d_;
};

// Whether it ran: not where cuBLASLt has no algorithm with what follows the product.
template <class T, class Out>
bool multiply(const Product<T, Out>& product, const Ort::KernelContext& context, bool tune) {
    const bool fits = reinterpret_cast<std::uintptr_t>(product.bias) % 16 == 0;  // cuBLASLt reads biases in vectors
    return fits && Problem(product).run(context, tune);
}
#endif

}  // namespace himar::fused
