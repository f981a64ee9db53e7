// Guidance and one reverse step of the diffusion, value by value (himar_kernels/diffusion.py).
//
// The order of operations is NumPy's and nothing may fuse a product with a sum: device code is compiled with
// --fmad=false, host code with -ffp-contract=off. The kernels wait for memory, so this costs no time.
#pragma once

#include "philox.cuh"
#include "state.cuh"

namespace himar {

// One row of the chain table (n, 8): the tables of himar_kernels.Chain at one k.
struct ChainRow {
    float sqrt_alphas_cumprod;
    float sqrt_one_minus_alphas_cumprod;
    float x_scale;
    float noise_scale;
    float mean_start;
    float mean_x;
    float log_beta;
    float log_posterior;
};
static_assert(sizeof(ChainRow) == 32, "Python's chain_table has 8 columns of float32");

HIMAR_FN const ChainRow& chain_row(const float* chain, u32 k) { return reinterpret_cast<const ChainRow*>(chain)[k]; }

HIMAR_FN float guided(float conditional, float unconditional, float guidance) {
    return unconditional + guidance * (conditional - unconditional);
}

// What a noise prediction says the chain ends at, of a row of either kind of chain.
template <class Row>
HIMAR_FN float start_of(const Row& row, float x, float epsilon) {
    return row.x_scale * x - row.noise_scale * epsilon;
}

HIMAR_FN float posterior_mean(const ChainRow& row, float x, float epsilon) {
    return row.mean_start * start_of(row, x, epsilon) + row.mean_x * x;
}

// Between ln β̃ and ln β, as the MLP head's v says.
HIMAR_FN float learned_log_variance(const ChainRow& row, float v) {
    const float fraction = (v + 1.0f) / 2.0f;
    return fraction * row.log_beta + (1.0f - fraction) * row.log_posterior;
}

HIMAR_FN float deviation_of(float log_variance) { return exp_float(0.5f * log_variance); }

HIMAR_FN float with_noise(float mean, float deviation, float noise, float temperature) {
    return mean + deviation * noise * temperature;
}

// A known token as noisy as the chain is at k, with the chain's own initial noise.
HIMAR_FN float renoised(const ChainRow& row, float token, float initial) {
    return row.sqrt_alphas_cumprod * token + row.sqrt_one_minus_alphas_cumprod * initial;
}

// Where a quad of channels stands: which item of a launch over rows × quads it is. There are less than 2^31 items, so
// that dividing takes 32 bits; offsets take 64.
struct QuadSite {
    u32 row;     // of the conditional half
    u32 quad;    // channels 4·quad …
    u32 count;   // channels from there on
    u64 offset;  // of the first of them in an array (rows, channels)
    HIMAR_FN QuadSite(u64 item, u32 channels) {
        const u32 quads = (channels + 3) / 4;
        row = static_cast<u32>(item) / quads;
        quad = static_cast<u32>(item) % quads;
        count = channels - 4 * quad;
        offset = static_cast<u64>(row) * channels + 4 * quad;
    }
};

// Recorded noise (rows, channels) where it is given, else the image's own.
HIMAR_FN Quad noise_at(const float* recorded, const QuadSite& site, bool wide, const StepState& state, u32 k,
                       const ImageOrigin& origin, u32 position) {
    if (recorded != nullptr) return load_quad(recorded + site.offset, site.count, wide);
    return normals(origin, state.phase, state.step, k, position, site.quad);
}

// Writes a quad into one half or two of an array (halves·rows, channels).
HIMAR_FN void store_halves(float* array, const QuadSite& site, const Quad& quad, u64 half_size, u32 halves, bool wide) {
    for (u32 half = 0; half < halves; ++half)
        store_quad(array + half * half_size + site.offset, quad, site.count, wide);
}

// Noise prediction of a quad after guidance. Rows of `prediction` are `stride` floats long and hold ε first.
HIMAR_FN Quad guided_quad(const float* prediction, u32 stride, const QuadSite& site, u64 rows, u32 halves,
                          float guidance, bool wide) {
    const float* const conditional = prediction + static_cast<u64>(site.row) * stride + 4 * site.quad;
    Quad epsilon = load_quad(conditional, site.count, wide);
    if (halves == 2) {
        const Quad unconditional = load_quad(conditional + rows * stride, site.count, wide);
        for (int lane = 0; lane < 4; ++lane)
            epsilon.value[lane] = guided(epsilon.value[lane], unconditional.value[lane], guidance);
    }
    return epsilon;
}

// Sets the loop to chain index k; one thread of a launch does it.
HIMAR_FN void set_chain_index(StepState* state, i64* timestep, const i64* timesteps, u32 k) {
    state->k = k;
    *timestep = timesteps[k];
    state->tickets = 0;
}

}  // namespace himar
