// What each operator is: its name, the types of its inputs and outputs, and what a call runs.
#pragma once

#include "call.cuh"
#include "rows.cuh"

namespace himar::fused {

// The name of an operator that takes float32 and gives To: NormToHalf, NormToBfloat16, NormToFp8.
template <class To>
std::string named_to(const std::string& name) {
    return name + (std::is_same_v<To, Half> ? "ToHalf" : std::is_same_v<To, Brain> ? "ToBfloat16" : "ToFp8");
}

// The formulas of norms and sums. kInputs are the types of what follows x; `made` reads x and them from a call.
template <class To>
struct NormFormula {
    static std::string name() { return named_to<To>("Norm"); }
    static constexpr auto kInputs = types<float, float>;
    using Out = To;

    template <int V>
    static auto made(Call& call, const float* x) {
        return Norm<V, To>{x, call.row<float>(), call.row<float>(), call.output<To>(), call.width,
                               call.attributes.epsilon};
    }
};

template <class T, class To>
struct ModulatedNormFormula {
    static std::string name() {
        if constexpr (std::is_same_v<To, float>) return "ModulatedNormToFloat";
        return std::is_same_v<To, Fp8> ? "ModulatedNormToFp8" : "ModulatedNorm";
    }
    static constexpr auto kInputs = types<float, float, T, T, T, T>;
    using Out = To;

    template <int V>
    static auto made(Call& call, const float* x) {
        return ModulatedNorm<V, T, To>{x,
                                       call.row<float>(),
                                       call.row<float>(),
                                       call.part<T>(call.attributes.scale_part),
                                       call.part<T>(call.attributes.shift_part),
                                       call.output<To>(),
                                       call.width,
                                       call.attributes.epsilon};
    }
};

template <class T>
struct ResidualFormula {
    static std::string name() { return "Residual"; }
    static constexpr auto kInputs = types<T, T>;
    using Out = float;

    template <int V>
    static auto made(Call& call) {
        return Residual<V, T>{call.rows<float>(), call.rows<T>(), call.row<T>(), call.output<float>(), call.width};
    }
};

template <class T>
struct GatedResidualFormula {
    static std::string name() { return "GatedResidual"; }
    static constexpr auto kInputs = types<T, T, T, T>;
    using Out = float;

    template <int V>
    static auto made(Call& call) {
        return GatedResidual<V, T>{call.rows<float>(),
                                   call.rows<T>(),
                                   call.row<T>(),
                                   call.part<T>(call.attributes.gate_part),
                                   call.output<float>(),
                                   call.width};
    }
};

// One array behind the other.
template <class Item, std::size_t... Sizes>
constexpr auto joined(const std::array<Item, Sizes>&... arrays) {
    std::array<Item, (Sizes + ...)> all{};
    std::size_t count = 0;
    const auto append = [&](const auto& array) {
        for (const Item item : array) all[count++] = item;
    };
    (append(arrays), ...);
    return all;
}

// Each body's `compute` runs a call with V values at once.
template <class Formula>
struct NormBody {
    static std::string name() { return Formula::name(); }
    static constexpr auto kInputs = joined(types<float>, Formula::kInputs);
    static constexpr auto kOutputs = types<typename Formula::Out>;

    template <int V>
    static void compute(Call& call) {
        const auto norm = Formula::template made<V>(call, call.rows<float>());
        run(NormRow<V, decltype(norm)>{norm}, call.count, call.context);
    }
};

template <class Formula>
struct SumBody {
    static std::string name() { return Formula::name(); }
    static constexpr auto kInputs = joined(types<float>, Formula::kInputs);
    static constexpr auto kOutputs = types<typename Formula::Out>;

    template <int V>
    static void compute(Call& call) {
        const auto sum = Formula::template made<V>(call);
        run(EachRow<V, decltype(sum)>{sum}, call.count, call.context);
    }
};

// A sum and the norm of it; its inputs are the sum's and then the norm's other than x, its outputs both.
template <class Sum, class Normal>
struct SumAndNormBody {
    static std::string name() { return Sum::name() + Normal::name(); }
    static constexpr auto kInputs = joined(types<float>, Sum::kInputs, Normal::kInputs);
    static constexpr auto kOutputs = types<float, typename Normal::Out>;

    template <int V>
    static void compute(Call& call) {
        if constexpr (V == 1) {
            with<V, 0>(call);
        } else {
            const int vectors = (call.width + V * kLanes - 1) / (V * kLanes);  // of a row, in each lane
            if (vectors <= 1) return with<V, 1>(call);
            if (vectors == 2) return with<V, 2>(call);
            if (vectors == 3) return with<V, 3>(call);
            if (vectors == 4) return with<V, 4>(call);
            if (vectors <= 6) return with<V, 6>(call);
            with<V, 0>(call);
        }
    }

  private:
    template <int V, int N>
    static void with(Call& call) {
        const auto sum = Sum::template made<V>(call);
        const auto norm = Normal::template made<V>(call, sum.out);
        run(SumAndNormRow<V, N, decltype(sum), decltype(norm)>{sum, norm}, call.count, call.context);
    }
};

template <class Activation>
constexpr const char* biased_name = std::is_same_v<Activation, Gelu>       ? "BiasGelu"
                                    : std::is_same_v<Activation, GeluTanh> ? "BiasGeluTanh"
                                                                           : "BiasSilu";

// An activation of a matmul's values and its bias; with To, of float32 rows and a row that all have added.
template <class T, class Activation, class To = T>
struct BiasedBody {
    static std::string name() {
        return std::is_same_v<T, To> ? biased_name<Activation> : named_to<To>(biased_name<Activation>);
    }
    static constexpr auto kInputs = types<T, T>;
    static constexpr auto kOutputs = types<To>;

    template <int V>
    static void compute(Call& call) {
        using Formula = Biased<V, T, Activation, To>;
        const Formula biased{call.rows<T>(), call.row<T>(), call.output<To>(), call.width};
        run(EachRow<V, Formula>{biased}, call.count, call.context);
    }
};

}  // namespace himar::fused
