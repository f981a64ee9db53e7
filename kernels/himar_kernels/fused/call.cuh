// A call of an operator: its inputs and outputs, and running rows on a GPU or on the CPU.
#pragma once

#ifndef ORT_API_MANUAL_INIT
#define ORT_API_MANUAL_INIT
#endif
#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "rows.cuh"

namespace himar::fused {

#ifdef __CUDACC__
constexpr const char* kProvider = "CUDAExecutionProvider";
constexpr int kLanes = 32, kThreads = 256, kRows = kThreads / kLanes;

template <class Row>
__global__ void __launch_bounds__(kThreads) run_rows(std::int64_t count, Row row) {
    const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kRows + threadIdx.x / kLanes;
    if (index < count) row(Lane{static_cast<int>(threadIdx.x % kLanes), kLanes}, index);
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
constexpr int kLanes = 1;

template <class Row>
void run(const Row& row, std::int64_t count, const Ort::KernelContext&) {
    for (std::int64_t index = 0; index < count; ++index) row(Lane{0, kLanes}, index);
}
#endif

template <class T>
constexpr ONNXTensorElementDataType kType = std::is_same_v<T, float>  ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
                                            : std::is_same_v<T, Half> ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
                                            : std::is_same_v<T, Fp8>  ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN
                                                                      : ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;

template <class... T>
constexpr std::array<ONNXTensorElementDataType, sizeof...(T)> types{kType<T>...};

// A node's attributes: of norms, and which part of their matmul's values gate, scale and shift are. Nodes of graphs in
// which each was a matmul of its own have none of the latter.
struct Attributes {
    float epsilon = 1e-6f;
    std::int64_t gate_part = 0, scale_part = 0, shift_part = 0;
};

// The inputs and outputs of a call: the first input's shape is the outputs', its last axis a row, which a matrix makes
// another row of.
class Call {
  public:
    Call(OrtKernelContext* raw, std::string name, const Attributes& given)
        : context(raw), attributes(given), name_(std::move(name)), shape_(shape_of(0)) {
        width = shape_.empty() ? 1 : static_cast<int>(shape_.back());
        count = 1;
        for (std::size_t axis = 0; axis + 1 < shape_.size(); ++axis) count *= shape_[axis];
    }

    // The next input, which has the first one's shape, or is one row for all; the next output.
    template <class T>
    const T* rows() {
        return next<T>(shape_);
    }
    template <class T>
    const T* row() {
        return next<T>({width});
    }
    // The next input, one value.
    const float* value() { return next<float>({}); }
    // The next input, a matrix with a row for each value of a row, or where it is turned a column; rows have a value for
    // each of the others from here on.
    template <class T>
    const T* matrix(bool turned = false) {
        const auto shape = shape_of(inputs_);
        const std::int64_t others = shape.size() == 2 ? shape[turned ? 0 : 1] : 0;
        const T* const values = turned ? next<T>({others, width}) : next<T>({width, others});
        width = static_cast<int>(others);
        shape_.back() = others;
        return values;
    }
    // The next two inputs, values of every row and a bias for all, as part `index` of theirs, which is as wide as a row.
    template <class T>
    Part<T> part(std::int64_t index) {
        const std::size_t values = inputs_++, bias = inputs_++;
        auto wide = shape_of(values), narrow = wide;
        const std::int64_t stride = wide.empty() ? 0 : wide.back(), parts = width == 0 ? 1 : stride / width;
        if (!wide.empty()) narrow.back() = width;
        if (narrow != shape_ || stride != parts * width || index < 0 || index >= parts) {
            throw misfit(values, "the first, " + words(shape_) + ", and part " + std::to_string(index));
        }
        if (shape_of(bias) != std::vector<std::int64_t>{stride}) throw misfit(bias, "input " + std::to_string(values));
        return {at<T>(values) + index * width, at<T>(bias) + index * width, stride};
    }
    template <class T>
    T* output() {
        return static_cast<T*>(context.GetOutput(outputs_++, shape_).GetTensorMutableRawData());
    }
    // Whether vectors of values can be read: rows of whole vectors, at addresses that fit.
    bool in_vectors(std::size_t inputs, int vector) const {
        bool fits = width % vector == 0;
        for (std::size_t index = 0; index < inputs; ++index) {
            fits &= reinterpret_cast<std::uintptr_t>(context.GetInput(index).GetTensorRawData()) % 16 == 0;
        }
        return fits;
    }

    Ort::KernelContext context;
    Attributes attributes;
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
    template <class T>
    const T* at(std::size_t index) const {
        return static_cast<const T*>(context.GetInput(index).GetTensorRawData());
    }
    Ort::Exception misfit(std::size_t index, const std::string& other) const {
        return {"input " + std::to_string(index) + " of " + name_ + " is " + words(shape_of(index)) +
                    ", which does not fit " + other + "; build the bundle anew",
                ORT_INVALID_ARGUMENT};
    }
    template <class T>
    const T* next(const std::vector<std::int64_t>& shape) {
        const std::size_t index = inputs_++;
        if (shape_of(index) != shape) throw misfit(index, "the first, " + words(shape_));
        return at<T>(index);
    }

    std::string name_;
    std::vector<std::int64_t> shape_;
    std::size_t inputs_ = 0, outputs_ = 0;
};

}  // namespace himar::fused
