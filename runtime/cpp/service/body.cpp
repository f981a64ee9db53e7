#include "body.h"

#include <vector>

#include "refusals.h"
#include "text.h"

namespace himar::service {
namespace {

using core::joined;
using core::lower;
using core::trimmed;

// True when the headers announce a body: by its length, or in chunks.
bool announces_body(const httplib::Request& request) {
    return request.has_header("Content-Length") ||
           lower(trimmed(request.get_header_value("Transfer-Encoding"))) == "chunked";
}

// The Content-Type without parameters.
std::string type_of(const httplib::Request& request) {
    const std::string type = request.get_header_value("Content-Type");
    return lower(trimmed(type.substr(0, type.find(';'))));
}

bool is_compressed(const httplib::Request& request) {
    const std::string encoding = lower(trimmed(request.get_header_value("Content-Encoding")));
    return !encoding.empty() && encoding != "identity";
}

}  // namespace

Body read_body(const httplib::Request& request, const httplib::ContentReader& reader, std::size_t most,
               std::size_t most_discarded) {
    if (!announces_body(request)) return {Body::State::kAbsent, {}, {}};
    const bool is_long = request.has_header("Content-Length");
    if (is_long && request.get_header_value_u64("Content-Length") > most_discarded) return {Body::State::kTooLarge, {}, {}};
    Body body{Body::State::kWhole, {}, {}};
    // httplib does not count what stands between the parts of a form.
    std::size_t size = is_long && request.get_header_value_u64("Content-Length") > most ? most + 1 : 0;
    const auto fits = [&](std::size_t count) {
        size += count;
        if (size > most) body.text = std::string(), body.parts = Parts();
        return size <= most;
    };
    const auto begin = [&](const httplib::MultipartFormData& part) {
        if (fits(part.name.size() + part.filename.size() + part.content_type.size())) body.parts.push_back({part.name, {}});
        return !part.name.empty() && size <= most_discarded;
    };
    const auto take = [&](const char* data, std::size_t count) {
        if (fits(count)) (body.parts.empty() ? body.text : body.parts.back().content).append(data, count);
        return size <= most_discarded;
    };
    const bool read = request.is_multipart_form_data() ? reader(begin, take) : reader(take);
    if (size > most) return {Body::State::kTooLarge, {}, {}};
    if (!read) return {Body::State::kBroken, {}, {}};
    return body;
}

void require_body(const httplib::Request& request, const Body& body, const std::string& type, std::size_t most) {
    if (type_of(request) != type)
        throw Refusal(415, "Content-Type is '" + cut(request.get_header_value("Content-Type")) + "'; send the request as " +
                               type + ".");
    if (is_compressed(request))
        throw Refusal(415, "Content-Encoding is '" + cut(request.get_header_value("Content-Encoding")) +
                               "'; send the body without one.");
    switch (body.state) {
        case Body::State::kWhole: return;
        case Body::State::kAbsent: throw Refusal(411, "the request has no Content-Length; send one, or a chunked body.");
        case Body::State::kTooLarge: throw Refusal(413, too_large(request, most));
        case Body::State::kBroken:
            if (type == kFormType)
                throw Refusal(400, "the body is no whole multipart form; send one with a boundary in Content-Type, a name of "
                                   "each part, and the last boundary.");
            throw Refusal(400, "the body does not arrive as its headers announce it.");
    }
}

std::string too_large(const httplib::Request& request, std::size_t most) {
    if (request.has_header("Content-Length"))
        return "the body has " + cut(request.get_header_value("Content-Length")) + " bytes; send at most " +
               std::to_string(most) + ".";
    return "the body has more than " + std::to_string(most) + " bytes; send fewer.";
}

std::string all_values(const httplib::Request& request, const std::string& name) {
    std::vector<std::string> all;
    for (std::size_t i = 0; i < request.get_header_value_count(name); ++i) all.push_back(request.get_header_value(name, "", i));
    return joined(all, ",");
}

std::string cut(const std::string& text) { return text.size() <= 100 ? text : text.substr(0, 100) + "..."; }

}  // namespace himar::service
