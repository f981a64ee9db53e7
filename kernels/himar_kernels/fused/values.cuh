// Half precision's types and the lanes that share a row, for a GPU and for the CPU.
//
// On a GPU the 32 lanes of a warp share a row; on the CPU one lane has all of it. Values are float32 while they are
// worked on.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
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

// e4m3: four bits of exponent, three of digits, NaN but no infinity. Beyond 448 a value saturates.
struct Fp8 {
    std::uint8_t bits;
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
HIMAR_ROW void from_float(float value, Fp8& to) { to.bits = __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3); }
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
inline float to_float(Fp8 value) {
    const int rest = value.bits & 0x7F, power = rest >> 3, digits = rest & 7;
    if (rest == 0x7F) return float_of(0x7FC00000u);
    const float size = power ? std::ldexp(static_cast<float>(8 + digits), power - 10) : std::ldexp(static_cast<float>(digits), -9);
    return value.bits & 0x80 ? -size : size;
}
// To nearest, ties to even; infinity saturates as other values do.
inline void from_float(float value, Fp8& to) {
    const std::uint32_t bits = bits_of(value), sign = bits >> 24 & 0x80u, size = bits & 0x7FFFFFFFu;
    std::uint32_t made = 0x7F;
    if (size < 0x3C800000u) {  // a multiple of 2^-9: adding 2^14 rounds there
        made = bits_of(float_of(size) + 16384.0f) - bits_of(16384.0f);
    } else if (size <= 0x7F800000u) {
        made = (size - 0x3C000000u + 0x7FFFFu + (size >> 20 & 1u)) >> 20;
        if (made > 0x7E) made = 0x7E;
    }
    to.bits = static_cast<std::uint8_t>(sign | made);
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
