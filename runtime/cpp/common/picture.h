// PNG files as a person sees them: in RGB, turned as their EXIF orientation says.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

struct Picture {
    std::int64_t width = 0, height = 0;
    std::vector<std::uint8_t> pixels;  // (height, width, 3), RGB
};

// Read a PNG of 8 bits a channel at most; `what` names it in sentences. std::runtime_error for a file that cannot be read,
// is no PNG, is damaged, has more bits or is transparent anywhere.
Picture read_picture(const std::filesystem::path& path, const std::string& what);
