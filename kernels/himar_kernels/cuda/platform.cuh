// What differs between device code and host C++: types, mathematics, atomics, wide loads.
//
// Every kernel of himar is written once over these few functions and over a Block (block.cuh). nvcc and NVRTC
// compile it as device code; a C++17 compiler compiles the same text for the tests that compare it with NumPy.
// No standard header reaches the device side, since NVRTC has none.
#pragma once

#ifdef __CUDACC__
#define HIMAR_FN __device__ __forceinline__
#else
#include <cmath>
#include <cstring>
#define HIMAR_FN inline
#endif

namespace himar {

using u8 = unsigned char;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;
static_assert(sizeof(u32) == 4 && sizeof(u64) == 8 && sizeof(i64) == 8, "the kernels need 32- and 64-bit words");

// Most threads that a block of any kernel may have; Python's launches keep to it.
constexpr u32 kMostThreads = 256;

// Four neighbouring channels: what one Philox block draws noise for, and 16 bytes of memory.
struct Quad {
    float value[4];
};

HIMAR_FN u32 bits_of(float value) {
#ifdef __CUDACC__
    return __float_as_uint(value);
#else
    u32 bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

HIMAR_FN float float_of(u32 bits) {
#ifdef __CUDACC__
    return __uint_as_float(bits);
#else
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

// A double in two words, so that a block's shared words hold doubles whatever they are aligned to.
HIMAR_FN void put_double(u32* words, double value) {
#ifdef __CUDACC__
    words[0] = static_cast<u32>(__double2loint(value));
    words[1] = static_cast<u32>(__double2hiint(value));
#else
    std::memcpy(words, &value, sizeof value);
#endif
}

HIMAR_FN double get_double(const u32* words) {
#ifdef __CUDACC__
    return __hiloint2double(static_cast<int>(words[1]), static_cast<int>(words[0]));
#else
    double value;
    std::memcpy(&value, words, sizeof value);
    return value;
#endif
}

// Words that stand in the order of the floats; the zeros are equal.
HIMAR_FN u32 sorting_word(float value) {
    const u32 bits = value == 0.0f ? 0u : bits_of(value);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

HIMAR_FN float value_of_sorting_word(u32 word) { return float_of(word >> 31 ? word ^ 0x80000000u : ~word); }

HIMAR_FN bool is_finite(float value) { return (bits_of(value) & 0x7F800000u) != 0x7F800000u; }

HIMAR_FN u32 high_word_of_product(u32 a, u32 b) {
#ifdef __CUDACC__
    return __umulhi(a, b);
#else
    return static_cast<u32>(static_cast<u64>(a) * b >> 32);
#endif
}

// 2 to a whole power, -1022 … 1023.
HIMAR_FN double power_of_two(i64 power) {
    const i64 bits = (power + 1023) << 52;
#ifdef __CUDACC__
    return __longlong_as_double(bits);
#else
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

// The exponential of v, -746 … 709, within a unit in the last place. Its own arithmetic, since the double exponential of
// CUDA is a call that makes a kernel spill: e^v = 2^n e^r with |r| <= ln(2)/2, ln(2) split in two so that n times its
// high part is exact, and Taylor's series of e^r up to r^13/13!, 4e-18 from the end.
HIMAR_FN double exp_double(double v) {
    const i64 n = static_cast<i64>(v * 1.4426950408889634 + (v < 0.0 ? -0.5 : 0.5));
    const double whole = static_cast<double>(n);
    const double r = (v - whole * 6.93147180369123816490e-01) - whole * 1.90821492927058770002e-10;
    double sum = 1.0 / 6227020800.0;
    sum = sum * r + 1.0 / 479001600.0;
    sum = sum * r + 1.0 / 39916800.0;
    sum = sum * r + 1.0 / 3628800.0;
    sum = sum * r + 1.0 / 362880.0;
    sum = sum * r + 1.0 / 40320.0;
    sum = sum * r + 1.0 / 5040.0;
    sum = sum * r + 1.0 / 720.0;
    sum = sum * r + 1.0 / 120.0;
    sum = sum * r + 1.0 / 24.0;
    sum = sum * r + 1.0 / 6.0;
    sum = sum * r + 0.5;
    sum = sum * r + 1.0;
    sum = sum * r + 1.0;
    return sum * power_of_two(n / 2) * power_of_two(n - n / 2);  // 2^n itself may be below what a double holds
}

// The exponential in double, rounded to float. Libraries' float exponentials differ in the last bit, which
// half-precision engines then magnify into visible differences between languages.
HIMAR_FN float exp_float(float value) {
    if (!(value > -104.0f)) return value == value ? 0.0f : value;
    return static_cast<float>(exp_double(value < 89.0f ? static_cast<double>(value) : 89.0));  // e^89 is infinity
}

// Half to even, as np.rint rounds.
HIMAR_FN float round_to_even(float value) {
#ifdef __CUDACC__
    return rintf(value);
#else
    return std::rint(value);
#endif
}

HIMAR_FN double log_double(double value) {
#ifdef __CUDACC__
    return log(value);
#else
    return std::log(value);
#endif
}

HIMAR_FN double sqrt_double(double value) {
#ifdef __CUDACC__
    return sqrt(value);
#else
    return std::sqrt(value);
#endif
}

// Cosine and sine of 2π·turn, 0 ≤ turn < 1.
HIMAR_FN void cosine_and_sine(double turn, double& cosine, double& sine) {
#ifdef __CUDACC__
    sincospi(2.0 * turn, &sine, &cosine);  // no range reduction, so no slow path
#else
    const double angle = 6.283185307179586476925287 * turn;
    cosine = std::cos(angle);
    sine = std::sin(angle);
#endif
}

// Makes this thread's writes visible to the other blocks before what it does next.
HIMAR_FN void fence() {
#ifdef __CUDACC__
    __threadfence();
#endif
}

// Adds 1 and returns the value before. The host runs one thread at a time.
HIMAR_FN u32 take_ticket(u32* tickets) {
#ifdef __CUDACC__
    return atomicAdd(tickets, 1u);
#else
    return (*tickets)++;
#endif
}

HIMAR_FN void replace_zero(u32* word, u32 value) {
#ifdef __CUDACC__
    atomicCAS(word, 0u, value);
#else
    if (*word == 0) *word = value;
#endif
}

// True where rows of `width` floats from every one of these addresses can be read 16 bytes at a time.
template <class... Pointers>
HIMAR_FN bool rows_are_wide(u32 width, Pointers... pointers) {
    const u64 together = (0ull | ... | reinterpret_cast<u64>(pointers));
    return width % 4 == 0 && together % 16 == 0;
}

// Four floats from `from`; only the first `count` are there when the rows are not wide.
HIMAR_FN Quad load_quad(const float* from, u32 count, bool wide) {
    Quad quad = {{0.0f, 0.0f, 0.0f, 0.0f}};
    if (wide) {
#ifdef __CUDACC__
        const float4 four = *reinterpret_cast<const float4*>(from);
        quad = {{four.x, four.y, four.z, four.w}};
#else
        std::memcpy(&quad, from, sizeof quad);
#endif
    } else {
        for (u32 lane = 0; lane < 4; ++lane)
            if (lane < count) quad.value[lane] = from[lane];
    }
    return quad;
}

HIMAR_FN void store_quad(float* to, const Quad& quad, u32 count, bool wide) {
    if (wide) {
#ifdef __CUDACC__
        *reinterpret_cast<float4*>(to) = make_float4(quad.value[0], quad.value[1], quad.value[2], quad.value[3]);
#else
        std::memcpy(to, &quad, sizeof quad);
#endif
    } else {
        for (u32 lane = 0; lane < 4; ++lane)
            if (lane < count) to[lane] = quad.value[lane];
    }
}

}  // namespace himar
