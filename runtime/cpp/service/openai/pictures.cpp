#include "openai/pictures.h"

#ifdef HIMAR_JPEG
#include <cstdio>  // before jpeglib.h, which uses it

#include <jpeglib.h>

#include <csetjmp>
#include <cstdlib>
#endif
#ifdef HIMAR_WEBP
#include <webp/encode.h>
#endif

#include <memory>
#include <stdexcept>

#include "png_file.h"

namespace himar::service::openai {
namespace {

#ifdef HIMAR_JPEG
struct JpegError {
    jpeg_error_mgr base;
    std::jmp_buf back;
};

// libjpeg ends the program at an error unless this comes back elsewhere.
void leave(j_common_ptr info) { std::longjmp(reinterpret_cast<JpegError*>(info->err)->back, 1); }

// libjpeg reports errors by longjmp, so nothing with a destructor may live in here. False on an error; `bytes` is to be freed.
bool encode_jpeg(const std::uint8_t* pixels, unsigned width, unsigned height, int quality, unsigned char** bytes,
                 unsigned long* size) {
    jpeg_compress_struct jpeg{};
    JpegError error{};
    jpeg.err = jpeg_std_error(&error.base);
    error.base.error_exit = leave;
    if (setjmp(error.back)) {
        jpeg_destroy_compress(&jpeg);
        return false;
    }
    jpeg_create_compress(&jpeg);
    jpeg_mem_dest(&jpeg, bytes, size);
    jpeg.image_width = width;
    jpeg.image_height = height;
    jpeg.input_components = 3;
    jpeg.in_color_space = JCS_RGB;
    jpeg_set_defaults(&jpeg);
    jpeg_set_quality(&jpeg, quality, TRUE);
    jpeg_start_compress(&jpeg, TRUE);
    while (jpeg.next_scanline < height) {
        JSAMPROW row = const_cast<JSAMPROW>(pixels + std::size_t{jpeg.next_scanline} * width * 3);
        jpeg_write_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    return true;
}

std::string jpeg_bytes(const std::uint8_t* pixels, unsigned width, unsigned height, int quality) {
    unsigned char* bytes = nullptr;
    unsigned long size = 0;
    const bool encoded = encode_jpeg(pixels, width, height, quality, &bytes, &size);
    const std::unique_ptr<unsigned char, void (*)(void*)> owner(bytes, std::free);
    if (!encoded) throw std::runtime_error("an image cannot be written as JPEG.");
    return {reinterpret_cast<const char*>(bytes), size};
}
#endif

#ifdef HIMAR_WEBP
std::string webp_bytes(const std::uint8_t* pixels, int width, int height, int quality) {
    std::uint8_t* bytes = nullptr;
    const std::size_t size = WebPEncodeRGB(pixels, width, height, width * 3, static_cast<float>(quality), &bytes);
    const std::unique_ptr<std::uint8_t, void (*)(void*)> owner(bytes, WebPFree);
    if (size == 0) throw std::runtime_error("an image cannot be written as WebP.");
    return {reinterpret_cast<const char*>(bytes), size};
}
#endif

}  // namespace

const std::vector<std::string>& writable_formats() {
    static const std::vector<std::string> formats = {
        "png",
#ifdef HIMAR_WEBP
        "webp",
#endif
#ifdef HIMAR_JPEG
        "jpeg",
#endif
    };
    return formats;
}

std::string encode_picture(const std::string& format, [[maybe_unused]] int compression, const View<std::uint8_t>& image,
                           const std::string& recipe) {
    const auto height = static_cast<unsigned>(image.shape()[1]), width = static_cast<unsigned>(image.shape()[2]);
#ifdef HIMAR_WEBP
    if (format == "webp") return webp_bytes(image.data(), static_cast<int>(width), static_cast<int>(height), compression);
#endif
#ifdef HIMAR_JPEG
    if (format == "jpeg") return jpeg_bytes(image.data(), width, height, compression);
#endif
    if (format != "png") throw std::runtime_error("this server cannot write " + format + ".");
    return png_bytes(image.data(), width, height, recipe);
}

}  // namespace himar::service::openai
