#include "picture.h"

#include <png.h>

#include <cerrno>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <system_error>

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

}  // namespace

int exif_orientation(const std::uint8_t* exif, std::size_t size) {
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

RgbaPicture upright(const RgbaPicture& picture, int orientation) {
    const std::int64_t width = picture.width, height = picture.height;
    const bool lies = orientation >= 5;
    RgbaPicture turned{lies ? height : width, lies ? width : height, std::vector<std::uint8_t>(picture.pixels.size())};
    const bool mirrors_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    const bool mirrors_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    std::uint8_t* to = turned.pixels.data();
    for (std::int64_t row = 0; row < turned.height; ++row)
        for (std::int64_t column = 0; column < turned.width; ++column, to += 4) {
            const std::int64_t x = lies ? row : column, y = lies ? column : row;
            const std::int64_t from = (mirrors_y ? height - 1 - y : y) * width + (mirrors_x ? width - 1 - x : x);
            std::memcpy(to, picture.pixels.data() + 4 * from, 4);
        }
    return turned;
}

void refuse_picture(const PictureKind& kind, const std::string& reason) {
    throw std::runtime_error(kind.name + " cannot be read: " + reason + "; " + kind.advice + ".");
}

void require_side(const PictureKind& kind, std::int64_t width, std::int64_t height) {
    if (kind.side == 0 || (width == kind.side && height == kind.side)) return;
    const std::string side = std::to_string(kind.side);
    throw std::runtime_error(kind.name + " has " + std::to_string(width) + " × " + std::to_string(height) +
                             " pixels, but the model's images have " + side + " × " + side + "; crop or resize it first.");
}

RgbaPicture decode_png(std::FILE* file, const PictureKind& kind) {
    Png png(file);
    if (!png.start()) refuse_picture(kind, kind.damaged);
    require_side(kind, png.width, png.height);
    if (png.bits > 8)
        throw std::runtime_error(kind.name + " has pixels of 16 bits a channel; save it with 8 bits a channel first.");
    if (static_cast<std::uint64_t>(png.width) * png.height > kMostPixels)
        refuse_picture(kind, "it has " + std::to_string(png.width) + " × " + std::to_string(png.height) + " pixels, more than " +
                                 std::to_string(kMostPixels));
    RgbaPicture picture{png.width, png.height, std::vector<std::uint8_t>(static_cast<std::size_t>(png.width) * png.height * 4)};
    std::vector<png_bytep> rows(png.height);
    for (std::size_t row = 0; row < rows.size(); ++row) rows[row] = picture.pixels.data() + row * png.width * 4;
    if (!png.decode(rows.data())) refuse_picture(kind, kind.damaged);
    png_uint_32 size = 0;
    const png_byte* const exif = png.exif(size);
    return upright(picture, exif_orientation(exif, size));
}

Picture read_picture(const std::filesystem::path& path, const std::string& what) {
    const PictureKind kind{"the " + what + " " + path.string(), "it is not a PNG image that can be decoded", "give a PNG file"};
    std::error_code unknown;
    if (std::filesystem::is_directory(path, unknown)) refuse_picture(kind, std::strerror(EISDIR));
    std::FILE* const file = std::fopen(path.c_str(), "rb");
    if (file == nullptr) refuse_picture(kind, std::strerror(errno));
    const RgbaPicture seen = decode_png(file, kind);
    Picture picture{seen.width, seen.height, {}};
    picture.pixels.reserve(seen.pixels.size() / 4 * 3);
    for (std::size_t i = 0; i < seen.pixels.size(); i += 4) {
        if (seen.pixels[i + 3] < 255)
            throw std::runtime_error(kind.name + " has transparent pixels, of which it is unclear what they mean; save it "
                                                 "without transparency.");
        picture.pixels.insert(picture.pixels.end(), seen.pixels.begin() + static_cast<std::ptrdiff_t>(i),
                              seen.pixels.begin() + static_cast<std::ptrdiff_t>(i + 3));
    }
    return picture;
}
