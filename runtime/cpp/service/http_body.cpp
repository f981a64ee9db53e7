#include "http_body.h"

#include <algorithm>
#include <cctype>

namespace himar::service {
namespace {

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char each) { return std::tolower(each); });
    return text;
}

std::string trimmed(const std::string& text) {
    const auto first = text.find_first_not_of(" \t"), last = text.find_last_not_of(" \t");
    return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

}  // namespace

Body read_body(const httplib::Request& request, const httplib::ContentReader& reader, std::size_t most,
               std::size_t most_discarded) {
    Body body;
    if (request.has_header("Content-Length") && request.get_header_value_u64("Content-Length") > most_discarded) {
        body.state = Body::State::kTooLarge;
        return body;
    }
    std::size_t size = 0;
    const auto take = [&](const char* data, std::size_t count) {
        size += count;
        if (size <= most)
            body.text.append(data, count);
        else
            body.text = std::string();
        return size <= most_discarded;
    };
    const bool read = request.is_multipart_form_data()
                          ? reader([](const httplib::MultipartFormData&) { return true; }, take)
                          : reader(take);
    if (size > most)
        body.state = Body::State::kTooLarge;
    else if (!read)
        body.state = Body::State::kBroken;
    return body;
}

bool announces_body(const httplib::Request& request) {
    return request.has_header("Content-Length") ||
           lower(trimmed(request.get_header_value("Transfer-Encoding"))) == "chunked";
}

bool is_json(const httplib::Request& request) {
    const std::string type = request.get_header_value("Content-Type");
    return lower(trimmed(type.substr(0, type.find(';')))) == "application/json";
}

bool is_compressed(const httplib::Request& request) {
    const std::string encoding = lower(trimmed(request.get_header_value("Content-Encoding")));
    return !encoding.empty() && encoding != "identity";
}

std::string all_values(const httplib::Request& request, const std::string& name) {
    std::string all;
    for (std::size_t i = 0; i < request.get_header_value_count(name); ++i)
        all += (i == 0 ? "" : ",") + request.get_header_value(name, "", i);
    return all;
}

}  // namespace himar::service
