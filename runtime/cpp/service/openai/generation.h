// Reading OpenAI's fields, as far as this server can do what they ask for; the body of POST /v1/images/generations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "edited.h"
#include "himar/himar.hpp"
#include "openai/fields.h"
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
    std::shared_ptr<const Edited> edited;  // what an edit begins with; null where whole images are made
};

// Read and check a body. Refusal with the field that is wrong. most_images: of one request.
Generation read_generation(const std::string& body, const Pipeline& pipeline, const ServedModel& model,
                           std::size_t most_images);

// Reads that many copies of what is edited.
using ReadEdited = std::function<std::shared_ptr<const Edited>(int count)>;

// Read and check the fields that generations and edits have in common. read_edited is called after them; it is null where
// whole images are made. An edit may do without a prompt.
Generation read_fields(const Fields& fields, const Pipeline& pipeline, const ServedModel& model, std::size_t most_images,
                       const ReadEdited& read_edited);

// The names of the fields that are taken, and of those that are ignored.
const Words& taken_fields();
const Words& ignored_fields();

}  // namespace himar::service::openai
