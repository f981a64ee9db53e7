// Linear layers as operators: the product, its bias and what follows them.
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "call.cuh"
#include "fp8.cuh"
#include "product.cuh"
#include "rows.cuh"

namespace himar::fused {

// What the environment says of linear layers.
//
// HIMAR_LINEAR: "0": the library has none, so that their functions run; "separate": what follows the product is a pass
// of its own, as it is where cuBLASLt has no algorithm with it. HIMAR_LINEAR_TUNE: "1": the first call of each size
// times cuBLASLt's candidates; two processes may then choose, and round, differently.
struct LinearOptions {
    bool on = true, separate = false, tune = false;

    static LinearOptions of_environment() {
        LinearOptions options;
        const std::string linear = value_of("HIMAR_LINEAR"), tune = value_of("HIMAR_LINEAR_TUNE");
        options.on = linear != "0";
        options.separate = linear == "separate";
        options.tune = tune == "1";
        if (options.on && !options.separate && !linear.empty() && linear != "1") {
            throw std::runtime_error("HIMAR_LINEAR is '" + linear + "'; it must be 0, 1 or separate");
        }
        if (!options.tune && !tune.empty() && tune != "0") {
            throw std::runtime_error("HIMAR_LINEAR_TUNE is '" + tune + "'; it must be 1 to time algorithms, or 0");
        }
        return options;
    }

  private:
    static std::string value_of(const char* name) {
        const char* const value = std::getenv(name);
        return value == nullptr ? "" : value;
    }
};

// What linear layers need before their first call. Throws where it is not there.
inline void prepare_linear() {
#ifdef __CUDACC__
    lt::Library::get();
#endif
}

// Runs the formula that `made` gives for a number of values at once: in vectors where rows and addresses let them.
template <class Made>
void run_formula(const Call& call, std::initializer_list<const void*> addresses, const Made& made) {
    constexpr int kVector = 8;
    bool fits = call.width % kVector == 0;
    for (const void* const each : addresses) fits &= reinterpret_cast<std::uintptr_t>(each) % 16 == 0;
    const auto run_with = [&](auto vector) {
        const auto formula = made(vector);
        run(EachRow<decltype(vector)::value, std::decay_t<decltype(formula)>>{formula}, call.count, call.context);
    };
    if (fits) return run_with(std::integral_constant<int, kVector>{});
    run_with(std::integral_constant<int, 1>{});
}

// activation(h + bias); y may be h.
template <class T, class Activation>
void add_bias(const Call& call, const T* h, const T* bias, T* y) {
    run_formula(call, {h, bias, y}, [&](auto vector) {
        return Biased<decltype(vector)::value, T, Activation>{h, bias, y, call.width};
    });
}

template <class T, class Out>
void multiply_alone(const Product<T, Out>& product, const Call& call, const LinearOptions& options) {
    if (multiply(product, call.context, options.tune)) return;
    throw std::runtime_error("cuBLASLt has no algorithm for (" + std::to_string(product.rows) + ", " +
                             std::to_string(product.depth) + ") by (" + std::to_string(product.depth) + ", " +
                             std::to_string(product.width) + "); set HIMAR_LINEAR to 0 to go without it");
}

// activation(x·W + bias): x (…, K), W (K, N), bias (N).
template <class T, class Activation>
struct LinearBody {
    static std::string name() { return std::is_same_v<Activation, GeluTanh> ? "LinearGeluTanh" : "Linear"; }
    static constexpr auto kInputs = types<T, T, T>;
    static constexpr auto kOutputs = types<T>;

    static void compute(Call& call, const LinearOptions& options) {
        const T* const x = call.rows<T>();
        const int depth = call.width;
        const T* const weight = call.matrix<T>();
        const T* const bias = call.row<T>();
        T* const y = call.output<T>();
        if (call.count == 0) return;
        constexpr bool kGelu = std::is_same_v<Activation, GeluTanh>;
        const Product<T, T> whole{x, weight, bias, nullptr, y, call.count, depth, call.width, kGelu};
        if (!options.separate && multiply(whole, call.context, options.tune)) return;
        const Product<T, T> bare{x, weight, nullptr, nullptr, y, call.count, depth, call.width, false};
        multiply_alone(bare, call, options);
        add_bias<T, Activation>(call, y, bias, y);
    }
};

// total + h·W + bias: h (…, K), W (K, N), bias (N) and total (…, N) in float32, which cuBLASLt adds before it rounds.
template <class T>
struct LinearResidualBody {
    static std::string name() { return "LinearResidual"; }
    static constexpr auto kInputs = types<T, T, float, float>;
    static constexpr auto kOutputs = types<float>;

    static void compute(Call& call, const LinearOptions& options) {
        const T* const h = call.rows<T>();
        const int depth = call.width;
        const T* const weight = call.matrix<T>();
        const float* const bias = call.row<float>();
        const float* const total = call.rows<float>();
        float* const y = call.output<float>();
        if (call.count == 0) return;
        const Product<T, float> whole{h, weight, bias, total, y, call.count, depth, call.width, false};
        if (!options.separate && multiply(whole, call.context, options.tune)) return;
        add_bias<float, Identity>(call, total, bias, y);
        const Product<T, float> bare{h, weight, nullptr, y, y, call.count, depth, call.width, false};
        multiply_alone(bare, call, options);
    }
};

inline void multiply_fp8(const Product<Fp8, Half>& product, const Call& call, const LinearOptions& options) {
    if (multiply(product, call.context, options.tune)) return;
    throw std::runtime_error("cuBLASLt has no fp8 algorithm for (" + std::to_string(product.rows) + ", " +
                             std::to_string(product.depth) + ") by (" + std::to_string(product.depth) + ", " +
                             std::to_string(product.width) +
                             "); fp8 needs a GPU of compute capability 8.9 or more: build with --fp16, or set "
                             "HIMAR_LINEAR to 0 to go without it");
}

// x·weightᵀ·step·weight_step: x (…, K) and weight (N, K) in fp8, each in units of its step. Half, its bias pending.
struct LinearFp8Body {
    static std::string name() { return "LinearFp8"; }
    static constexpr auto kInputs = types<Fp8, Fp8, float, float>;
    static constexpr auto kOutputs = types<Half>;

    static void compute(Call& call, const LinearOptions& options) {
        const Fp8* const x = call.rows<Fp8>();
        const int depth = call.width;
        const Fp8* const weight = call.matrix<Fp8>(true);
        const float *const step = call.value(), *const weight_step = call.value();
        Half* const y = call.output<Half>();
        if (call.count == 0) return;
        const Product<Fp8, Half> product{x,          weight,     nullptr, nullptr, y,          call.count,
                                         depth,      call.width, false,   step,    weight_step};
        multiply_fp8(product, call, options);
    }
};

// GELU(x·weightᵀ·step·weight_step + bias), tanh form, in fp8 in units of made_step; also its inverse is given, by which
// cuBLASLt multiplies. cuBLASLt's results saturate where a product beyond half precision would become NaN otherwise.
struct LinearGeluTanhFp8Body {
    static std::string name() { return "LinearGeluTanhFp8"; }
    static constexpr auto kInputs = types<Fp8, Fp8, float, float, Half, float, float>;
    static constexpr auto kOutputs = types<Fp8>;

    static void compute(Call& call, const LinearOptions& options) {
        const Fp8* const x = call.rows<Fp8>();
        const int depth = call.width;
        const Fp8* const weight = call.matrix<Fp8>(true);
        const float *const step = call.value(), *const weight_step = call.value();
        const Half* const bias = call.row<Half>();
        const float *const made_step = call.value(), *const inverse = call.value();
        Fp8* const y = call.output<Fp8>();
        if (call.count == 0) return;
        const Product<Fp8, Fp8> whole{x,     weight,     bias, nullptr, y,           call.count,
                                      depth, call.width, true, step,    weight_step, inverse};
        if (!options.separate && multiply(whole, call.context, options.tune)) return;
        const Scratch scratch(call.context, sizeof(Half) * static_cast<std::size_t>(call.count * call.width));
        Half* const h = static_cast<Half*>(scratch.address);
        const Product<Fp8, Half> bare{x,     weight,     nullptr, nullptr, h,          call.count,
                                      depth, call.width, false,   step,    weight_step};
        multiply_fp8(bare, call, options);
        run_formula(call, {h, bias, y}, [&](auto vector) {
            return BiasedInUnits<decltype(vector)::value, Half, GeluTanh>{{h, bias, y, call.width}, made_step};
        });
    }
};

}  // namespace himar::fused
