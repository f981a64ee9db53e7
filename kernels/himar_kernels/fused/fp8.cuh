// Operators that end in fp8, for the inputs of fp8 matmuls: a pass of its own would cost more than the matmul gains.
#pragma once

#include "bodies.cuh"

namespace himar::fused {

// Values in units of `step`, a power of two, whose inverse is exact. fp8 has no infinity: one becomes NaN here, or it
// would become the largest value and be seen no more.
template <int V>
HIMAR_ROW Floats<V> in_units(Floats<V> values, float step) {
    const float inverse = 1.0f / step;
    for (int i = 0; i < V; ++i) {
        const float value = values.value[i];
        values.value[i] = (value + (value - value)) * inverse;
    }
    return values;
}

// A norm's formula that gives its values in units.
template <class Formula>
struct InUnits : Formula {
    const float* step;

    template <class Values>
    HIMAR_ROW Values of(Values values, Statistics found, std::int64_t row, int at) const {
        return in_units(Formula::of(values, found, row, at), *step);
    }
};

// Formula whose To is Fp8, and after its inputs the scale.
template <class Formula>
struct ToFp8 {
    static std::string name() { return Formula::name(); }
    static constexpr auto kInputs = joined(Formula::kInputs, types<float>);
    using Out = Fp8;

    template <int V>
    static auto made(Call& call, const float* x) {
        const auto norm = Formula::template made<V>(call, x);
        return InUnits<std::decay_t<decltype(norm)>>{norm, call.value()};
    }
};

// The same of an activation.
template <int V, class T, class Activation>
struct BiasedInUnits : Biased<V, T, Activation, Fp8> {
    const float* step;

    HIMAR_ROW Floats<V> of(std::int64_t row, int at) const {
        return in_units(Biased<V, T, Activation, Fp8>::of(row, at), *step);
    }
};

template <class T, class Activation>
struct BiasedToFp8Body {
    static std::string name() { return named_to<Fp8>(biased_name<Activation>); }
    static constexpr auto kInputs = types<T, T, float>;
    static constexpr auto kOutputs = types<Fp8>;

    template <int V>
    static void compute(Call& call) {
        const T* const h = call.rows<T>();
        const T* const bias = call.row<T>();
        using InUnits = BiasedInUnits<V, T, Activation>;
        const InUnits biased{{h, bias, call.output<Fp8>(), call.width}, call.value()};
        run(EachRow<V, InUnits>{biased}, call.count, call.context);
    }
};

}  // namespace himar::fused
