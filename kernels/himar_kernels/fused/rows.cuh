// What lies between the matmuls of a component, one row at a time: the arithmetic of our ONNX Runtime operators.
//
// T is half or bfloat16, the type of matmuls; the residual stream x is float32. V values are read and written at once.
#pragma once

#include "values.cuh"

namespace himar::fused {

// Calls function(first value) for every vector of a row that is this lane's.
template <int V, class Function>
HIMAR_ROW void for_vectors(Lane lane, int width, const Function& function) {
    for (int at = V * lane.index; at < width; at += V * lane.count) function(at);
}

// One part of the values of a matmul that makes several, and of its bias: values of a row begin `stride` after those of
// the row before.
template <class T>
struct Part {
    const T *values, *bias;
    std::int64_t stride;

    template <int V>
    HIMAR_ROW Floats<V> of(std::int64_t row, int at) const {
        return Floats<V>::load(values + row * stride, at);
    }
};

// Mean and 1/√(variance + epsilon) of a row.
struct Statistics {
    float mean, scale;
};

// `visit` calls a function with every vector of the row that is this lane's.
template <int V, class Visit>
HIMAR_ROW Statistics statistics_of(const Visit& visit, int width, float epsilon) {
    float sum = 0.0f;
    visit([&](const Floats<V>& values) {
        for (int i = 0; i < V; ++i) sum += values.value[i];
    });
    const float mean = sum_of_lanes(sum) / static_cast<float>(width);
    float squares = 0.0f;
    visit([&](const Floats<V>& values) {
        for (int i = 0; i < V; ++i) squares += (values.value[i] - mean) * (values.value[i] - mean);
    });
    return {mean, inverse_root(sum_of_lanes(squares) / static_cast<float>(width) + epsilon)};
}

// LayerNorm(x)·weight + bias. `of` gives V values of a row whose statistics are known.
template <int V, class Out>
struct Norm {
    const float *x, *weight, *bias;
    Out* out;
    int width;
    float epsilon;

    HIMAR_ROW Floats<V> of(Floats<V> value, Statistics found, std::int64_t, int at) const {
        const auto times = Floats<V>::load(weight, at), plus = Floats<V>::load(bias, at);
        for (int i = 0; i < V; ++i) {
            value.value[i] = (value.value[i] - found.mean) * found.scale * times.value[i] + plus.value[i];
        }
        return value;
    }
};

// (LayerNorm(x)·weight + bias)·(scale + its bias) + (shift + its bias), scale and shift of every row.
template <int V, class T, class Out>
struct ModulatedNorm {
    const float *x, *weight, *bias;
    Part<T> scale, shift;
    Out* out;
    int width;
    float epsilon;

    HIMAR_ROW Floats<V> of(Floats<V> value, Statistics found, std::int64_t row, int at) const {
        const auto times = Floats<V>::load(weight, at), plus = Floats<V>::load(bias, at);
        const auto a = scale.template of<V>(row, at), a0 = Floats<V>::load(scale.bias, at);
        const auto b = shift.template of<V>(row, at), b0 = Floats<V>::load(shift.bias, at);
        for (int i = 0; i < V; ++i) {
            const float normal = (value.value[i] - found.mean) * found.scale * times.value[i] + plus.value[i];
            value.value[i] = normal * (a.value[i] + a0.value[i]) + (b.value[i] + b0.value[i]);
        }
        return value;
    }
};

// A norm by itself, of rows that are read.
template <int V, class Formula>
struct NormRow {
    Formula norm;

    HIMAR_ROW void operator()(Lane lane, std::int64_t row) const {
        const std::int64_t first = row * norm.width;
        const auto read = [&](const auto& function) {
            for_vectors<V>(lane, norm.width, [&](int at) { function(Floats<V>::load(norm.x + first, at)); });
        };
        const Statistics found = statistics_of<V>(read, norm.width, norm.epsilon);
        for_vectors<V>(lane, norm.width, [&](int at) {
            norm.of(Floats<V>::load(norm.x + first, at), found, row, at).store(norm.out + first, at);
        });
    }
};

// x + (h + bias). `of` gives V values of a row.
template <int V, class T>
struct Residual {
    const float* x;
    const T *h, *bias;
    float* out;
    int width;

    HIMAR_ROW Floats<V> of(std::int64_t row, int at) const {
        const std::int64_t first = row * width;
        auto value = Floats<V>::load(x + first, at);
        const auto added = Floats<V>::load(h + first, at), plus = Floats<V>::load(bias, at);
        for (int i = 0; i < V; ++i) value.value[i] += added.value[i] + plus.value[i];
        return value;
    }
};

// x + (gate + its bias)·(h + bias), gate of every row.
template <int V, class T>
struct GatedResidual {
    const float* x;
    const T *h, *bias;
    Part<T> gate;
    float* out;
    int width;

    HIMAR_ROW Floats<V> of(std::int64_t row, int at) const {
        const std::int64_t first = row * width;
        auto value = Floats<V>::load(x + first, at);
        const auto added = Floats<V>::load(h + first, at), plus = Floats<V>::load(bias, at);
        const auto a = gate.template of<V>(row, at), a0 = Floats<V>::load(gate.bias, at);
        for (int i = 0; i < V; ++i) value.value[i] += (a.value[i] + a0.value[i]) * (added.value[i] + plus.value[i]);
        return value;
    }
};

// What a formula gives at every place of a row: a residual sum by itself, an activation.
template <int V, class Formula>
struct EachRow {
    Formula formula;

    HIMAR_ROW void operator()(Lane lane, std::int64_t row) const {
        const std::int64_t first = row * formula.width;
        for_vectors<V>(lane, formula.width, [&](int at) { formula.of(row, at).store(formula.out + first, at); });
    }
};

// A residual sum and the norm of it, which is read from the lanes' registers: N vectors of a row in each. With N = 0,
// for rows that are wider, a lane reads again what it wrote.
template <int V, int N, class Sum, class Normal>
struct SumAndNormRow {
    Sum sum;
    Normal norm;

    HIMAR_ROW void operator()(Lane lane, std::int64_t row) const {
        if constexpr (N == 0) {
            EachRow<V, Sum>{sum}(lane, row);
            NormRow<V, Normal>{norm}(lane, row);
        } else {
            const std::int64_t first = row * sum.width;
            Floats<V> kept[N] = {};
            for_kept(lane, [&](int n, int at) {
                kept[n] = sum.of(row, at);
                kept[n].store(sum.out + first, at);
            });
            const auto visit = [&](const auto& function) { for_kept(lane, [&](int n, int) { function(kept[n]); }); };
            const Statistics found = statistics_of<V>(visit, norm.width, norm.epsilon);
            for_kept(lane, [&](int n, int at) { norm.of(kept[n], found, row, at).store(norm.out + first, at); });
        }
    }

  private:
    // Counted to N, so that every index of `kept` is a constant.
    template <class Function>
    HIMAR_ROW void for_kept(Lane lane, const Function& function) const {
#ifdef __CUDACC__
#pragma unroll
#endif
        for (int n = 0; n < N; ++n) {
            const int at = V * (lane.index + n * lane.count);
            if (at < sum.width) function(n, at);
        }
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
struct Identity {
    HIMAR_ROW static float of(float v) { return v; }
};
struct Silu {
    HIMAR_ROW static float of(float v) { return v / (1.0f + exponential(-v)); }
};

// activation(h + bias), in the type of h or in another.
template <int V, class T, class Activation, class To = T>
struct Biased {
    const T *h, *bias;
    To* out;
    int width;

    HIMAR_ROW Floats<V> of(std::int64_t row, int at) const {
        auto value = Floats<V>::load(h + row * width, at);
        const auto plus = Floats<V>::load(bias, at);
        for (int i = 0; i < V; ++i) value.value[i] = Activation::of(value.value[i] + plus.value[i]);
        return value;
    }
};

}  // namespace himar::fused
