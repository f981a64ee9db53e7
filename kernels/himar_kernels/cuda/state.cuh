// The words that travel between launches on the device: where a run stands, and the first fault it met.
#pragma once

#include "platform.cuh"

namespace himar {

// One autoregressive step of one phase. The host writes it before the step; only k, tickets and what follows them change on the device.
struct StepState {
    u32 phase;         // 0 low, 1 high
    u32 step;          // counts the autoregressive steps of the phase from 0
    u32 masked;        // positions still masked before the step
    u32 revealed;      // positions that the step fixes
    u32 chain_length;  // n, diffusion steps of the phase's head
    u32 k;             // index in the chain of the next reverse step, n-1 … 0
    float guidance;
    float temperature;
    u32 tickets;       // blocks that have finished the launch under way
    u32 evaluations;   // of the head in this chain, which keep_prediction counts; 0 where nothing is forecast
    u32 evaluated_at;  // k of the last of them
    u32 pad[5];
};
static_assert(sizeof(StepState) == 64, "Python's STEP_STATE has 64 bytes");
#ifndef __CUDACC_RTC__  // NVRTC 13.0 knows no offsetof; nvcc and the host's compiler check the same text
#define HIMAR_AT(member, offset) static_assert(__builtin_offsetof(StepState, member) == offset, "layout of STEP_STATE")
HIMAR_AT(phase, 0);
HIMAR_AT(step, 4);
HIMAR_AT(masked, 8);
HIMAR_AT(revealed, 12);
HIMAR_AT(chain_length, 16);
HIMAR_AT(k, 20);
HIMAR_AT(guidance, 24);
HIMAR_AT(temperature, 28);
HIMAR_AT(tickets, 32);
HIMAR_AT(evaluations, 36);
HIMAR_AT(evaluated_at, 40);
#undef HIMAR_AT
#endif

// Components as a fault word counts them. A head that is not in its phase of the released models counts for itself.
constexpr u32 kTransformerLow = 1, kTransformerHigh = 2, kMlpHead = 3, kDitHead = 4, kVaeDecoder = 5, kMlpHeadHigh = 6,
              kDitHeadLow = 7, kTextEncoderFault = 8;
constexpr u32 kPhaseLow = 0;

// The fault word: 0 while all is well, else component | step << 8 of a first value that was not finite.
HIMAR_FN void note_fault(u32* fault, u32 component, u32 step) { replace_zero(fault, component | step << 8); }

HIMAR_FN bool all_finite(const Quad& quad) {
    return is_finite(quad.value[0]) && is_finite(quad.value[1]) && is_finite(quad.value[2]) && is_finite(quad.value[3]);
}

}  // namespace himar
