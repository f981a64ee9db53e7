// Components as the family's fault words count them; the decoder is kVaeDecoder, as in every family.
#pragma once

#include "state.cuh"

namespace himar::core::hmar {

constexpr u32 kConditionsFault = 1, kNextScaleFault = 2, kMaskedFault = 3, kEncoderFault = 4;
static_assert(kEncoderFault < kVaeDecoder, "a number for each");

}  // namespace himar::core::hmar
