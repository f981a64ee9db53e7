// Answers, and from a result to the body of one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "himar/himar.hpp"
#include "stages.h"

namespace himar::service {

using Headers = std::vector<std::pair<std::string, std::string>>;

// An answer whose parts come one after the other.
class Streaming {
public:
    // Hands a part to the connection, waiting until it has taken it; false when the client has gone.
    using Send = std::function<bool(const std::string& part)>;

    virtual ~Streaming() = default;

    // Send all parts, in the thread of the connection. False when the client has gone before the last.
    virtual bool write(const Send& send) = 0;
};

struct Answer {
    int status = 200;
    std::string type = "application/json", body;
    Headers headers;
    std::size_t images = 0;
    Stages stages;  // of an answer with images, where its time went
    std::shared_ptr<Streaming> stream = nullptr;  // in place of a body
};

// JSON as text; what is not UTF-8 in it is replaced.
std::string dumped(const nlohmann::ordered_json& value);

// A sentence that is not longer than an answer may hold: values as long as the body itself are cut short.
std::string shortened(const std::string& sentence);

// Base64 (RFC 4648, with padding) of `size` bytes.
std::string base64(const void* bytes, std::size_t size);

// The PNG of one image of the result, with its recipe. Error when the bundle has no VAE decoder.
std::string png_of(const Result& result, std::size_t index);

// The JSON body of POST /v1/images: seed, every image as PNG or as latents, and the seconds that it waited and took.
std::string images_json(const Result& result, std::uint64_t seed, bool latents, double queued);

// {"error": sentence}.
std::string error_json(const std::string& sentence);

// The JSON body of GET /v1/model.
std::string model_json(const Pipeline& pipeline, const std::string& name, std::size_t lanes);

}  // namespace himar::service
