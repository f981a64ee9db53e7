// Reading the body of POST /v1/images/generations: OpenAI's fields, as far as this server can do what they ask for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "himar/himar.hpp"
#include "openai/models.h"

namespace himar::service::openai {

// A checked request.
struct Generation {
    GenerateOptions options;   // what to make; its seed is drawn when the body gives none
    std::string size;          // "WxH", the model's
    std::string quality;       // as it was asked for
    std::string format;        // of the images, one of writable_formats()
    int compression;           // 0 … 100, the quality of webp and jpeg
    bool stream;               // the answer is a stream of events, of one image
    int partial_images;        // how many unfinished images it is to show at most
    std::int64_t text_tokens;  // rows of context that the model takes for each image's text; 0 of a class
};

// Read and check a body. Refusal with the field that is wrong. most_images: of one request.
Generation read_generation(const std::string& body, const Pipeline& pipeline, const ServedModel& model,
                           std::size_t most_images);

}  // namespace himar::service::openai
