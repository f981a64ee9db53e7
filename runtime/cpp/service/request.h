// Reading the JSON body of POST /v1/images.
#pragma once

#include <cstddef>
#include <string>

#include "himar/himar.hpp"
#include "refusals.h"

namespace himar::service {

struct ImageRequest {
    GenerateOptions options;  // its seed is drawn when the body gives none
    bool latents = false;     // wanted in place of PNGs
};

// Read the body. Refusal 400 names the key, the value and what to do, in the runtime's own sentences where the value is
// one that C cannot take; 413 when there are more than `most_images` labels or prompts. All else is left to the runtime.
ImageRequest read_image_request(const std::string& body, std::size_t most_images, const himar_pipeline_info& info);

// A seed of 53 random bits, which every JSON reader keeps whole.
std::uint64_t random_seed();

}  // namespace himar::service
