// PNG images that carry the recipe of their image, as himar's Python runtime writes and reads them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

// The bytes of a PNG of pixels (height, width, 3), RGB, with `recipe` (JSON) in the text chunk "himar", or without that chunk
// if it is empty. std::runtime_error when libpng fails.
std::string png_bytes(const std::uint8_t* pixels, std::uint32_t width, std::uint32_t height, const std::string& recipe);

// Write such a PNG; an existing file is replaced in one go. std::runtime_error when it cannot be written.
void write_png(const std::filesystem::path& path, const std::uint8_t* pixels, std::uint32_t width, std::uint32_t height,
               const std::string& recipe);
