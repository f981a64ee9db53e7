// The fault word that the kernels leave (kernels/himar_kernels/cuda/state.cuh), as an error.
#pragma once

#include "kernels.h"

namespace himar::core {

// EngineError that names component, phase and step unless the word is 0.
void check_fault(u32 word);

}  // namespace himar::core
