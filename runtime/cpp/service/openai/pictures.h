// Images in the formats that clients ask for. PNG is always there; WebP and JPEG where the server was built with their
// libraries.
#pragma once

#include <string>
#include <vector>

#include "himar/himar.hpp"

namespace himar::service::openai {

// The formats that this server can write, PNG first.
const std::vector<std::string>& writable_formats();

// The bytes of an image uint8 (1, H, W, 3), RGB. compression: 0 … 100, the quality of webp and jpeg. recipe: JSON that a
// PNG carries, none if it is empty. std::runtime_error when the library fails.
std::string encode_picture(const std::string& format, int compression, const View<std::uint8_t>& image,
                           const std::string& recipe);

}  // namespace himar::service::openai
