// Reading the body of POST /v1/images/edits: a form with an image, a mask of what is drawn anew, and OpenAI's fields.
#pragma once

#include <cstddef>
#include <cstdint>

#include "body.h"
#include "openai/generation.h"

namespace himar::service::openai {

// How many bytes an edit's form may have: two uncompressed RGBA images more than other bodies.
inline std::size_t most_bytes(std::size_t max_body, std::int64_t side) {
    return max_body + static_cast<std::size_t>(2 * 4 * side * side);
}

// Read and check a form; its images are decoded here. Refusal with the field that is wrong.
Generation read_edit(const Parts& parts, const Pipeline& pipeline, const ServedModel& model, std::size_t most_images);

}  // namespace himar::service::openai
