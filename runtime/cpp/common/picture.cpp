#include "picture.h"

#include <png.h>

#include <cerrno>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace {

constexpr std::uint64_t kMostPixels = 178'956'970;  // as many as the Python runtime decodes

// A PNG that is being decoded to RGBA of 8 bits. libpng reports errors by longjmp, so nothing with a destructor may live
// in the functions that call it.
class Png {
public:
    explicit Png(std::FILE* file) : file_(file) {
        png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, [](png_structp, png_const_charp) {});
        if (png_ != nullptr) info_ = png_create_info_struct(png_);
        if (png_ != nullptr) png_set_error_fn(png_, nullptr, fail, [](png_structp, png_const_charp) {});
    }
    ~Png() {
        png_destroy_read_struct(&png_, &info_, nullptr);
        std::fclose(file_);
    }
    Png(const Png&) = delete;
    Png& operator=(const Png&) = delete;

    // Read what stands before the pixels; false where it is damaged.
    bool start() {
        if (info_ == nullptr || setjmp(png_jmpbuf(png_))) return false;
        png_init_io(png_, file_);
        png_read_info(png_, info_);
        width = png_get_image_width(png_, info_);
        height = png_get_image_height(png_, info_);
        bits = png_get_bit_depth(png_, info_);
        return true;
    }

    // Decode the pixels into rows of 4·width bytes; false where they are damaged.
    bool decode(png_bytepp rows) {
        if (setjmp(png_jmpbuf(png_))) return false;
        png_set_expand(png_);
        png_set_gray_to_rgb(png_);
        png_set_add_alpha(png_, 255, PNG_FILLER_AFTER);
        png_read_update_info(png_, info_);
        if (png_get_rowbytes(png_, info_) != static_cast<std::size_t>(width) * 4) return false;
        png_read_image(png_, rows);
        return true;
    }

    // Its EXIF data, which may stand behind the pixels; null where there are none.
    const png_byte* exif(png_uint_32& size) {
        png_bytep found = nullptr;
        if (setjmp(png_jmpbuf(png_)) == 0) png_read_end(png_, info_);
#ifdef PNG_eXIf_SUPPORTED
        png_get_eXIf_1(png_, info_, &size, &found);
#endif
        return found;
    }

    png_uint_32 width = 0, height = 0;
    int bits = 0;

private:
    [[noreturn]] static void fail(png_structp png, png_const_charp) { png_longjmp(png, 1); }

    std::FILE* file_;
    png_structp png_ = nullptr;
    png_infop info_ = nullptr;
};

// How a picture lies, 1 … 8 as EXIF counts it; 1, upright, where the data do not say.
int orientation_of(const png_byte* exif, std::size_t size) {
    constexpr std::uint32_t tag = 0x0112, short_type = 3;
    if (exif == nullptr || size < 8) return 1;
    const bool little = exif[0] == 'I';
    const auto number = [&](std::size_t at, std::size_t bytes) {
        std::uint32_t value = 0;
        for (std::size_t i = 0; i < bytes; ++i) value = value << 8 | exif[at + (little ? bytes - 1 - i : i)];
        return value;
    };
    const std::size_t start = number(4, 4);
    if (number(2, 2) != 42 || start > size - 2) return 1;
    const std::size_t entries = number(start, 2);
    for (std::size_t i = 0; i < entries && start + 2 + 12 * (i + 1) <= size; ++i) {
        const std::size_t at = start + 2 + 12 * i;
        if (number(at, 2) != tag || number(at + 2, 2) != short_type) continue;
        const std::uint32_t value = number(at + 8, 2);
        return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
    }
    return 1;
}

// The RGB of rgba (height, width, 4), turned upright.
Picture upright(const std::vector<std::uint8_t>& rgba, std::int64_t width, std::int64_t height, int orientation) {
    const bool lies = orientation >= 5;
    Picture picture{lies ? height : width, lies ? width : height, std::vector<std::uint8_t>(rgba.size() / 4 * 3)};
    const bool mirrors_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    const bool mirrors_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    std::uint8_t* to = picture.pixels.data();
    for (std::int64_t row = 0; row < picture.height; ++row)
        for (std::int64_t column = 0; column < picture.width; ++column, to += 3) {
            const std::int64_t x = lies ? row : column, y = lies ? column : row;
            const std::int64_t from = (mirrors_y ? height - 1 - y : y) * width + (mirrors_x ? width - 1 - x : x);
            std::memcpy(to, rgba.data() + 4 * from, 3);
        }
    return picture;
}

}  // namespace

Picture read_picture(const std::filesystem::path& path, const std::string& what) {
    const std::string name = "the " + what + " " + path.string();
    const auto refuse = [&](const std::string& reason) {
        throw std::runtime_error(name + " cannot be read: " + reason + "; give a PNG file.");
    };
    std::error_code unknown;
    if (std::filesystem::is_directory(path, unknown)) refuse(std::strerror(EISDIR));
    std::FILE* const file = std::fopen(path.c_str(), "rb");
    if (file == nullptr) refuse(std::strerror(errno));
    constexpr const char* damaged = "it is not a PNG image that can be decoded";
    Png png(file);
    if (!png.start()) refuse(damaged);
    if (png.bits > 8) throw std::runtime_error(name + " has pixels of 16 bits a channel; save it with 8 bits a channel first.");
    if (static_cast<std::uint64_t>(png.width) * png.height > kMostPixels)
        refuse("it has " + std::to_string(png.width) + " × " + std::to_string(png.height) + " pixels, more than " +
               std::to_string(kMostPixels));
    std::vector<std::uint8_t> rgba(static_cast<std::size_t>(png.width) * png.height * 4);
    std::vector<png_bytep> rows(png.height);
    for (std::size_t row = 0; row < rows.size(); ++row) rows[row] = rgba.data() + row * png.width * 4;
    if (!png.decode(rows.data())) refuse(damaged);
    for (std::size_t i = 3; i < rgba.size(); i += 4)
        if (rgba[i] < 255)
            throw std::runtime_error(name + " has transparent pixels, of which it is unclear what they mean; save it without "
                                            "transparency.");
    png_uint_32 size = 0;
    const png_byte* const exif = png.exif(size);
    return upright(rgba, png.width, png.height, orientation_of(exif, size));
}
