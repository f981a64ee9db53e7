// Pictures that clients send: PNG always, WebP and JPEG where the server was built with their libraries.
#pragma once

#include <cstdint>
#include <string>

#include "picture.h"

namespace himar::service::openai {

// Decode a picture, turned as its EXIF orientation says. name: "the image". std::runtime_error for what cannot be decoded,
// and before its pixels are decoded for one that is not (side, side).
RgbaPicture decode_upload(const std::string& bytes, const std::string& name, std::int64_t side);

}  // namespace himar::service::openai
