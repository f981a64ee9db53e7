// Half precision's types and the lanes that share a row, for a GPU and for the CPU.
//
// On a GPU the 32 lanes of a warp share a row; on the CPU one lane has all of it. Values are float32 while they are
// worked on.
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

}  // namespace himar::fused
