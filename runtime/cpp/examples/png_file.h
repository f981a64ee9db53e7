// PNG files that carry the recipe of their image, as himar's Python runtime writes and reads them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

// Write pixels (height, width, 3), RGB, with `recipe` (JSON) in the text chunk "himar"; an existing file is replaced in
// one go. std::runtime_error when it cannot be written.
void write_png(const std::filesystem::path& path, const std::uint8_t* pixels, std::uint32_t width, std::uint32_t height,
               const std::string& recipe);
