// What a preview asks of the bundle's decoder, wherever it runs.
#pragma once

#include <cstdint>

#include "engine.h"
#include "error.h"

namespace himar::core {

// Unless `decoder` can decode `batch` latents of s by s to images of `side` pixels a side: InputError when it is null,
// EngineError when its engine takes no latents of this size or the images are too many.
void check_preview(const Engine* decoder, std::int64_t s, std::int64_t batch, std::int64_t side);

// What to throw when the decoder gave values that are not finite.
EngineError preview_fault();

}  // namespace himar::core
