// Reading a request's body within limits, and what its headers say about it.
#pragma once

#include <httplib.h>

#include <string>

namespace himar::service {

struct Body {
    enum class State { kWhole, kTooLarge, kBroken } state = State::kWhole;
    std::string text;  // when it is whole
};

// Read the body. Of one that is longer than `most` the rest is read too, up to `most_discarded` bytes, and dropped: a
// client that is still sending would otherwise meet a closed connection in place of the answer.
Body read_body(const httplib::Request& request, const httplib::ContentReader& reader, std::size_t most,
               std::size_t most_discarded);

// True when the headers announce a body: by its length, or in chunks.
bool announces_body(const httplib::Request& request);

// True when Content-Type is application/json, with or without parameters.
bool is_json(const httplib::Request& request);

// True when the body has a Content-Encoding.
bool is_compressed(const httplib::Request& request);

// The values of a header of which there may be several, with commas between them.
std::string all_values(const httplib::Request& request, const std::string& name);

}  // namespace himar::service
