// PNG files as a person sees them: turned as their EXIF orientation says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

struct Picture {
    std::int64_t width = 0, height = 0;
    std::vector<std::uint8_t> pixels;  // (height, width, 3), RGB
};

// A picture that may be transparent.
struct RgbaPicture {
    std::int64_t width = 0, height = 0;
    std::vector<std::uint8_t> pixels;  // (height, width, 4)
};

// Read a PNG of 8 bits a channel at most; `what` names it in sentences. std::runtime_error for a file that cannot be read,
// is no PNG, is damaged, has more bits or is transparent anywhere.
Picture read_picture(const std::filesystem::path& path, const std::string& what);

// How to speak of a picture, and of which side it has to be; of any where that is 0.
struct PictureKind {
    std::string name;     // "the image cat.png"
    std::string damaged;  // why it cannot be read if it cannot be decoded
    std::string advice;   // what to do then
    std::int64_t side = 0;
};

// std::runtime_error with the picture's name, a reason why it cannot be read, and the advice.
[[noreturn]] void refuse_picture(const PictureKind& kind, const std::string& reason);

// std::runtime_error for a picture of another side than it has to have.
void require_side(const PictureKind& kind, std::int64_t width, std::int64_t height);

// Decode a PNG, which is closed. std::runtime_error as read_picture, but for transparency; for one of another size before its
// pixels are decoded.
RgbaPicture decode_png(std::FILE* file, const PictureKind& kind);

// How a picture lies, 1 … 8, by its EXIF data (TIFF, from its byte order on); 1, upright, where they do not say, or are null.
int exif_orientation(const std::uint8_t* exif, std::size_t size);

// A picture that lies so, turned upright.
RgbaPicture upright(const RgbaPicture& picture, int orientation);
