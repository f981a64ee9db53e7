// What lies between the products of a component, one row at a time: the arithmetic of our ONNX Runtime operators.
//
// One text for a GPU, where the 32 lanes of a warp share a row, and for the CPU, where one lane has all of it. Values
// are float32 while they are worked on; T is half or bfloat16, the type of products; the residual stream x is float32.
// V values are read and written at once.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define HIMAR_ROW __device__ __forceinline__
#else
#include <cmath>
#include <cstring>
#define HIMAR_ROW inline
#endif

namespace himar::fused {

struct Half {
    std::uint16_t bits;
};
struct Brain {
    std::uint16_t bits;
};

// The lanes that share a row.
struct Lane {
    int index, count;
};

HIMAR_ROW float to_float(float value) { return value; }
HIMAR_ROW void from_float(float value, float& to) { to = value; }

#ifdef __CUDACC__
HIMAR_ROW float to_float(Half value) { return __half2float(__ushort_as_half(value.bits)); }
HIMAR_ROW float to_float(Brain value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }
HIMAR_ROW void from_float(float value, Half& to) { to.bits = __half_as_ushort(__float2half_rn(value)); }
HIMAR_ROW void from_float(float value, Brain& to) { to.bits = __bfloat16_as_ushort(__float2bfloat16_rn(value)); }
HIMAR_ROW float sum_of_lanes(float value) {
    for (int mask = 16; mask; mask >>= 1) value += __shfl_xor_sync(0xFFFFFFFFu, value, mask);
    return value;
}
HIMAR_ROW float inverse_root(float value) { return rsqrtf(value); }
HIMAR_ROW float error_function(float value) { return erff(value); }
HIMAR_ROW float exponential(float value) { return __expf(value); }
#else
inline float float_of(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float to_float(Half value) {
    const std::uint32_t sign = (value.bits & 0x8000u) << 16, rest = value.bits & 0x7FFFu;
    if (rest >= 0x7C00u) return float_of(sign | 0x7F800000u | (rest & 0x3FFu) << 13);
    const float magnitude = static_cast<float>(rest & 0x3FFu) / 1024.0f;
    const int power = static_cast<int>(rest >> 10);
    const float size = power ? std::ldexp(1.0f + magnitude, power - 15) : std::ldexp(magnitude, -14);
    return sign ? -size : size;
}
inline float to_float(Brain value) { return float_of(static_cast<std::uint32_t>(value.bits) << 16); }
// To nearest, ties to even; beyond the range infinity.
inline void from_float(float value, Half& to) {
    const std::uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000u, size = bits & 0x7FFFFFFFu;
    if (size > 0x7F800000u) {
        to.bits = static_cast<std::uint16_t>(sign | 0x7E00u);
    } else if (size >= 0x477FF000u) {
        to.bits = static_cast<std::uint16_t>(sign | 0x7C00u);
    } else if (size < 0x38800000u) {  // a multiple of 2^-24: adding 0.5 rounds there
        to.bits = static_cast<std::uint16_t>(sign | (bits_of(float_of(size) + 0.5f) - bits_of(0.5f)));
    } else {
        to.bits = static_cast<std::uint16_t>(sign | (size - 0x38000000u + 0xFFFu + (size >> 13 & 1u)) >> 13);
    }
}
inline void from_float(float value, Brain& to) {
    const std::uint32_t bits = bits_of(value);
    to.bits = static_cast<std::uint16_t>(value != value ? bits >> 16 | 0x40u : (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}
inline float sum_of_lanes(float value) { return value; }
inline float inverse_root(float value) { return 1.0f / std::sqrt(value); }
inline float error_function(float value) { return std::erf(value); }
inline float exponential(float value) { return std::exp(value); }
#endif

template <class T, int V>
struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) Pack {
    T value[V];
};

// V values as floats, from `index` on.
template <int V>
struct Floats {
    float value[V];

    template <class T>
    HIMAR_ROW static Floats load(const T* from, int index) {
        const Pack<T, V> pack = *reinterpret_cast<const Pack<T, V>*>(from + index);
        Floats floats;
        for (int i = 0; i < V; ++i) floats.value[i] = to_float(pack.value[i]);
        return floats;
    }

    template <class T>
    HIMAR_ROW void store(T* to, int index) const {
        Pack<T, V> pack;
        for (int i = 0; i < V; ++i) from_float(value[i], pack.value[i]);
        *reinterpret_cast<Pack<T, V>*>(to + index) = pack;
    }
};

// Calls function(first value) for every vector of a row that is this lane's.
template <int V, class Function>
HIMAR_ROW void for_vectors(Lane lane, int width, const Function& function) {
    for (int at = V * lane.index; at < width; at += V * lane.count) function(at);
}

// Mean and 1/√(variance + epsilon) of a row.
struct Statistics {
    float mean, scale;
};

template <int V>
HIMAR_ROW Statistics statistics_of(Lane lane, const float* x, int width, float epsilon) {
    float sum = 0.0f;
    for_vectors<V>(lane, width, [&](int at) {
        const auto values = Floats<V>::load(x, at);
        for (int i = 0; i < V; ++i) sum += values.value[i];
    });
    const float mean = sum_of_lanes(sum) / static_cast<float>(width);
    float squares = 0.0f;
    for_vectors<V>(lane, width, [&](int at) {
        const auto values = Floats<V>::load(x, at);
        for (int i = 0; i < V; ++i) squares += (values.value[i] - mean) * (values.value[i] - mean);
    });
    return {mean, inverse_root(sum_of_lanes(squares) / static_cast<float>(width) + epsilon)};
}

// LayerNorm(x)·weight + bias.
template <int V, class Out>
struct Norm {
    const float *x, *weight, *bias;
    Out* out;
    int width;
    float epsilon;

    HIMAR_ROW void operator()(Lane lane, std::int64_t row) const {
        const float* from = x + row * width;
        const Statistics found = statistics_of<V>(lane, from, width, epsilon);
        for_vectors<V>(lane, width, [&](int at) {
            auto value = Floats<V>::load(from, at);
            const auto times = Floats<V>::load(weight, at), plus = Floats<V>::load(bias, at);
            for (int i = 0; i < V; ++i) {
                value.value[i] = (value.value[i] - found.mean) * found.scale * times.value[i] + plus.value[i];
            }
            value.store(out + row * width, at);
        });
    }
};

// (LayerNorm(x)·weight + bias)·(scale + scale_bias) + (shift + shift_bias), scale and shift of every row.
template <int V, class T, class Out>
struct ModulatedNorm {
    const float *x, *weight, *bias;
    const T *scale, *scale_bias, *shift, *shift_bias;
    Out* out;
    int width;
    float epsilon;

    HIMAR_ROW void operator()(Lane lane, std::int64_t row) const {
        const std::int64_t first = row * width;
        const Statistics found = statistics_of<V>(lane, x + first, width, epsilon);
        for_vectors<V>(lane, width, [&](int at) {
            auto value = Floats<V>::load(x + first, at);
            const auto times = Floats<V>::load(weight, at), plus = Floats<V>::load(bias, at);
            const auto a = Floats<V>::load(scale + first, at), a0 = Floats<V>::load(scale_bias, at);
            const auto b = Floats<V>::load(shift + first, at), b0 = Floats<V>::load(shift_bias, at);
            for (int i = 0; i < V; ++i) {
                const float normal = (value.value[i] - found.mean) * found.scale * times.value[i] + plus.value[i];
                value.value[i] = normal * (a.value[i] + a0.value[i]) + (b.value[i] + b0.value[i]);
            }
            value.store(out + first, at);
        });
    }
};

// x + (h + bias).
template <int V, class T>
struct Residual {
    const float* x;
    const T *h, *bias;
    float* out;
    int width;

    HIMAR_ROW void operator()(Lane lane, std::int64_t row) const {
        const std::int64_t first = row * width;
        for_vectors<V>(lane, width, [&](int at) {
            auto value = Floats<V>::load(x + first, at);
            const auto added = Floats<V>::load(h + first, at), plus = Floats<V>::load(bias, at);
            for (int i = 0; i < V; ++i) value.value[i] += added.value[i] + plus.value[i];
            value.store(out + first, at);
        });
    }
};

// x + (gate + gate_bias)·(h + bias), gate of every row.
template <int V, class T>
struct GatedResidual {
    const float* x;
    const T *h, *bias, *gate, *gate_bias;
    float* out;
    int width;

    HIMAR_ROW void operator()(Lane lane, std::int64_t row) const {
        const std::int64_t first = row * width;
        for_vectors<V>(lane, width, [&](int at) {
            auto value = Floats<V>::load(x + first, at);
            const auto added = Floats<V>::load(h + first, at), plus = Floats<V>::load(bias, at);
            const auto a = Floats<V>::load(gate + first, at), a0 = Floats<V>::load(gate_bias, at);
            for (int i = 0; i < V; ++i) {
                value.value[i] += (a.value[i] + a0.value[i]) * (added.value[i] + plus.value[i]);
            }
            value.store(out + first, at);
        });
    }
};

struct Gelu {
    HIMAR_ROW static float of(float v) { return 0.5f * v * (1.0f + error_function(v * 0.70710678118654752f)); }
};
// ½v(1 + tanh(√(2/π)(v + 0.044715v³))), the tanh through one exponential.
struct GeluTanh {
    HIMAR_ROW static float of(float v) {
        return v / (1.0f + exponential(-1.5957691216057308f * (v + 0.044715f * v * v * v)));
    }
};
struct Silu {
    HIMAR_ROW static float of(float v) { return v / (1.0f + exponential(-v)); }
};

// activation(h + bias).
template <int V, class T, class Activation>
struct Biased {
    const T *h, *bias;
    T* out;
    int width;

    HIMAR_ROW void operator()(Lane lane, std::int64_t row) const {
        const std::int64_t first = row * width;
        for_vectors<V>(lane, width, [&](int at) {
            auto value = Floats<V>::load(h + first, at);
            const auto plus = Floats<V>::load(bias, at);
            for (int i = 0; i < V; ++i) value.value[i] = Activation::of(value.value[i] + plus.value[i]);
            value.store(out + first, at);
        });
    }
};

}  // namespace himar::fused
