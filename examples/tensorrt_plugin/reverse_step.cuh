// Guidance, one reverse step and noise as one operation on whole tensors: what the TensorRT plugin runs.
//
// The arithmetic is that of himar_mlp_step and himar_dit_step (kernels/himar_kernels/cuda/diffusion.cuh); only the surroundings
// differ: the step's numbers come as a tensor, since an engine keeps no state between runs.
#pragma once

#include "block.cuh"
#include "diffusion.cuh"

namespace himar {

// The parameters tensor: a row of the chain table, then guidance and temperature.
struct StepParameters {
    ChainRow row;
    float guidance;
    float temperature;
};
constexpr u32 kStepParameters = sizeof(StepParameters) / sizeof(float);

// next (M, C) of x (M, C), prediction (H·M, 2C) with a learned variance (MLP head) or (H·M, C) (DiT head), and
// noise (M, C). A temperature of 0 adds no noise, as the step at k = 0 asks.
template <class Block>
HIMAR_FN void reverse_step(Block& block, float* next, const float* x, const float* prediction, const float* noise,
                           const StepParameters* parameters, u32 rows, u32 halves, u32 channels,
                           bool learned_variance) {
    const StepParameters step = *parameters;
    const u32 stride = learned_variance ? 2 * channels : channels;
    const bool wide = rows_are_wide(channels, next, x, prediction, noise);
    const float common = deviation_of(step.row.log_beta);  // of every value, where the variance is not learned
    block.for_each_in_grid(static_cast<u64>(rows) * ((channels + 3) / 4), [&](u64 item) {
        const QuadSite site(item, channels);
        const Quad epsilon = guided_quad(prediction, stride, site, rows, halves, step.guidance, wide);
        Quad state = load_quad(x + site.offset, site.count, wide);
        for (int lane = 0; lane < 4; ++lane)
            state.value[lane] = posterior_mean(step.row, state.value[lane], epsilon.value[lane]);
        if (step.temperature != 0.0f) {
            const Quad drawn = load_quad(noise + site.offset, site.count, wide);
            Quad deviation = {{common, common, common, common}};
            if (learned_variance) {
                const u64 variance = static_cast<u64>(site.row) * stride + channels + 4 * site.quad;
                const Quad v = load_quad(prediction + variance, site.count, wide);
                for (int lane = 0; lane < 4; ++lane)
                    deviation.value[lane] = deviation_of(learned_log_variance(step.row, v.value[lane]));
            }
            for (int lane = 0; lane < 4; ++lane)
                state.value[lane] = with_noise(state.value[lane], deviation.value[lane], drawn.value[lane],
                                               step.temperature);
        }
        store_quad(next + site.offset, state, site.count, wide);
    });
}

}  // namespace himar
