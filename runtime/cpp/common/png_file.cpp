#include "png_file.h"

#include <png.h>

#include <cerrno>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <system_error>

namespace {

// libpng hands over the bytes; an exception must not pass through it, so a lack of memory becomes libpng's own error.
void append(png_structp png, png_bytep data, png_size_t size) {
    auto* const bytes = static_cast<std::string*>(png_get_io_ptr(png));
    bool appended = true;
    try {
        bytes->append(reinterpret_cast<const char*>(data), size);
    } catch (...) {
        appended = false;
    }
    if (!appended) png_error(png, "no memory is left");
}

// libpng reports errors by longjmp, so nothing with a destructor may live in here. Returns false on an error.
bool encode(std::string* bytes, png_const_bytep pixels, png_uint_32 width, png_uint_32 height, png_textp text) {
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
    png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
    if (info == nullptr || setjmp(png_jmpbuf(png))) {
        png_destroy_write_struct(&png, &info);
        return false;
    }
    png_set_write_fn(png, bytes, append, nullptr);
    png_set_IHDR(png, info, width, height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    if (text != nullptr) png_set_text(png, info, text, 1);
    png_write_info(png, info);
    for (png_uint_32 row = 0; row < height; ++row) png_write_row(png, pixels + static_cast<std::size_t>(row) * width * 3);
    png_write_end(png, nullptr);
    png_destroy_write_struct(&png, &info);
    return true;
}

}  // namespace

std::string png_bytes(const std::uint8_t* pixels, std::uint32_t width, std::uint32_t height, const std::string& recipe) {
    std::string key = "himar", value = "[" + recipe + "]", bytes;
    png_text text{};
    text.compression = PNG_TEXT_COMPRESSION_NONE;
    text.key = key.data();
    text.text = value.data();
    text.text_length = value.size();
    if (!encode(&bytes, pixels, width, height, recipe.empty() ? nullptr : &text)) throw std::runtime_error("an image cannot be written as PNG.");
    return bytes;
}

void write_png(const std::filesystem::path& path, const std::uint8_t* pixels, std::uint32_t width, std::uint32_t height,
               const std::string& recipe) {
    const std::string bytes = png_bytes(pixels, width, height, recipe);
    const std::filesystem::path unfinished = path.parent_path() / ("." + path.filename().string() + ".part");
    std::FILE* const file = std::fopen(unfinished.c_str(), "wb");
    bool good = file != nullptr && std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
    if (file != nullptr && std::fclose(file) != 0) good = false;
    std::error_code failed;
    if (good) std::filesystem::rename(unfinished, path, failed);
    if (good && !failed) return;
    const std::string reason = failed ? failed.message() : std::strerror(errno);
    std::filesystem::remove(unfinished, failed);
    throw std::runtime_error(path.string() + " cannot be written: " + reason + ".");
}
