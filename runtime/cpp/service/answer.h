// From a result to the body of an answer.
#pragma once

#include <cstdint>
#include <string>

#include "himar/himar.hpp"

namespace himar::service {

// Base64 (RFC 4648, with padding) of `size` bytes.
std::string base64(const void* bytes, std::size_t size);

// The PNG of one image of the result, with its recipe. Error when the bundle has no VAE decoder.
std::string png_of(const Result& result, std::size_t index);

// The JSON body of POST /v1/images: seed, every image as PNG or as latents, and the seconds that it waited and took.
std::string images_json(const Result& result, std::uint64_t seed, bool latents, double queued);

// {"error": sentence}; what is not UTF-8 in the sentence is replaced.
std::string error_json(const std::string& sentence);

// The JSON body of GET /v1/model.
std::string model_json(const himar_pipeline_info& info, std::size_t lanes);

}  // namespace himar::service
