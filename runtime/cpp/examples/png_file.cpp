#include "png_file.h"

#include <png.h>

#include <cerrno>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <system_error>

namespace {

// libpng reports errors by longjmp, so nothing with a destructor may live in here. Returns false on an error.
bool encode(std::FILE* file, png_const_bytep pixels, png_uint_32 width, png_uint_32 height, png_textp text) {
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
    png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
    if (info == nullptr || setjmp(png_jmpbuf(png))) {
        png_destroy_write_struct(&png, &info);
        return false;
    }
    png_init_io(png, file);
    png_set_IHDR(png, info, width, height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_set_text(png, info, text, 1);
    png_write_info(png, info);
    for (png_uint_32 row = 0; row < height; ++row) png_write_row(png, pixels + static_cast<std::size_t>(row) * width * 3);
    png_write_end(png, nullptr);
    png_destroy_write_struct(&png, &info);
    return true;
}

}  // namespace

void write_png(const std::filesystem::path& path, const std::uint8_t* pixels, std::uint32_t width, std::uint32_t height,
               const std::string& recipe) {
    const std::filesystem::path unfinished = path.parent_path() / ("." + path.filename().string() + ".part");
    std::string key = "himar", value = "[" + recipe + "]";
    png_text text{};
    text.compression = PNG_TEXT_COMPRESSION_NONE;
    text.key = key.data();
    text.text = value.data();
    text.text_length = value.size();
    std::FILE* const file = std::fopen(unfinished.c_str(), "wb");
    bool good = file != nullptr && encode(file, pixels, width, height, &text);
    if (file != nullptr && std::fclose(file) != 0) good = false;
    std::error_code failed;
    if (good) std::filesystem::rename(unfinished, path, failed);
    if (good && !failed) return;
    const std::string reason = failed ? failed.message() : std::strerror(errno);
    std::filesystem::remove(unfinished, failed);
    throw std::runtime_error(path.string() + " cannot be written: " + reason + ".");
}
