// A request's head and body, as far as httplib leaves them to us.
#pragma once

#include <httplib.h>

#include <cstddef>
#include <string>
#include <vector>

namespace himar::service {

// A part of a multipart form.
struct Part {
    std::string name, content;
};
using Parts = std::vector<Part>;

struct Body {
    enum class State { kWhole, kAbsent, kTooLarge, kBroken } state;
    // When it is whole, and nothing of it is left on the connection: what it holds, or the parts of a multipart form.
    std::string text;
    Parts parts;
};

constexpr const char* kJsonType = "application/json";
constexpr const char* kFormType = "multipart/form-data";

// Read the body of a POST, at most `most` bytes. Of one that is longer the rest is read too, up to `most_discarded` bytes,
// and dropped: a client that is still sending would otherwise meet a closed connection in place of the answer.
Body read_body(const httplib::Request& request, const httplib::ContentReader& reader, std::size_t most,
               std::size_t most_discarded);

// Refusal 400, 411, 413 or 415 unless the body is whole, of this type, and not compressed.
void require_body(const httplib::Request& request, const Body& body, const std::string& type, std::size_t most);

// Refusal 413 of a body whose length was announced, or was not.
std::string too_large(const httplib::Request& request, std::size_t most);

// The values of a header of which there may be several, with commas between them.
std::string all_values(const httplib::Request& request, const std::string& name);

// Text for a sentence, cut where it is long.
std::string cut(const std::string& text);

}  // namespace himar::service
