#include "openai/uploads.h"

#ifdef HIMAR_JPEG
#include <cstdio>  // before jpeglib.h, which uses it

#include <jpeglib.h>

#include <jerror.h>

#include <csetjmp>
#endif
#ifdef HIMAR_WEBP
#include <webp/decode.h>
#endif

#include <cstring>
#include <vector>

#include "text.h"

namespace himar::service::openai {
namespace {

bool begins_with(const std::string& bytes, const std::string& start, std::size_t at = 0) {
    return bytes.compare(at, start.size(), start) == 0;
}

// EXIF data from their byte order on: some writers put a name before it.
int orientation_of(const std::uint8_t* exif, std::size_t size) {
    constexpr std::size_t name = 6;
    if (size >= name && std::memcmp(exif, "Exif\0\0", name) == 0) return exif_orientation(exif + name, size - name);
    return exif_orientation(exif, size);
}

RgbaPicture decode_png(const std::string& bytes, const PictureKind& kind) {
    std::FILE* const file = fmemopen(const_cast<char*>(bytes.data()), bytes.size(), "rb");
    if (file == nullptr) refuse_picture(kind, kind.damaged);
    return ::decode_png(file, kind);
}

#ifdef HIMAR_JPEG
// A JPEG that is being decoded to RGB. libjpeg reports errors by longjmp, so nothing with a destructor may live in the
// functions that call it.
class Jpeg {
public:
    Jpeg() {
        jpeg_.err = jpeg_std_error(&error_.base);
        error_.base.error_exit = [](j_common_ptr info) { std::longjmp(reinterpret_cast<Failure*>(info->err)->back, 1); };
        // A file that ends too early is a warning to libjpeg, which makes up the rest; other warnings say little.
        error_.base.emit_message = [](j_common_ptr info, int level) {
            if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) info->err->error_exit(info);
        };
    }
    ~Jpeg() { jpeg_destroy_decompress(&jpeg_); }
    Jpeg(const Jpeg&) = delete;
    Jpeg& operator=(const Jpeg&) = delete;

    // Read what stands before the pixels; false where it is damaged.
    bool start(const std::string& bytes) {
        if (setjmp(error_.back)) return false;
        jpeg_create_decompress(&jpeg_);
        jpeg_mem_src(&jpeg_, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
        jpeg_save_markers(&jpeg_, JPEG_APP0 + 1, 0xffff);
        return jpeg_read_header(&jpeg_, TRUE) == JPEG_HEADER_OK;
    }

    // Decode the pixels (height, width, 3); false where they are damaged.
    bool decode(std::uint8_t* pixels) {
        if (setjmp(error_.back)) return false;
        jpeg_.out_color_space = JCS_RGB;
        jpeg_start_decompress(&jpeg_);
        while (jpeg_.output_scanline < jpeg_.output_height) {
            JSAMPROW row = pixels + std::size_t{jpeg_.output_scanline} * jpeg_.output_width * 3;
            jpeg_read_scanlines(&jpeg_, &row, 1);
        }
        jpeg_finish_decompress(&jpeg_);
        return true;
    }

    std::int64_t width() const { return jpeg_.image_width; }
    std::int64_t height() const { return jpeg_.image_height; }
    int channels() const { return jpeg_.num_components; }

    int orientation() const {
        for (jpeg_saved_marker_ptr marker = jpeg_.marker_list; marker != nullptr; marker = marker->next)
            if (marker->data_length >= 6 && std::memcmp(marker->data, "Exif\0\0", 6) == 0)
                return orientation_of(marker->data, marker->data_length);
        return 1;
    }

private:
    struct Failure {
        jpeg_error_mgr base;
        std::jmp_buf back;
    };

    jpeg_decompress_struct jpeg_{};
    Failure error_{};
};

RgbaPicture decode_jpeg(const std::string& bytes, const PictureKind& kind) {
    Jpeg jpeg;
    if (!jpeg.start(bytes)) refuse_picture(kind, kind.damaged);
    require_side(kind, jpeg.width(), jpeg.height());
    if (jpeg.channels() > 3) throw std::runtime_error(kind.name + " is a JPEG of type CMYK; save it in RGB first.");
    std::vector<std::uint8_t> rgb(static_cast<std::size_t>(jpeg.width() * jpeg.height()) * 3);
    if (!jpeg.decode(rgb.data())) refuse_picture(kind, kind.damaged);
    RgbaPicture picture{jpeg.width(), jpeg.height(), std::vector<std::uint8_t>(rgb.size() / 3 * 4, 255)};
    for (std::size_t i = 0; i < rgb.size() / 3; ++i) std::memcpy(picture.pixels.data() + 4 * i, rgb.data() + 3 * i, 3);
    return upright(picture, jpeg.orientation());
}
#endif

#ifdef HIMAR_WEBP
// The orientation in a WebP file's chunks, which stand behind its head of 12 bytes.
int webp_orientation(const std::string& bytes) {
    const auto* const data = reinterpret_cast<const std::uint8_t*>(bytes.data());
    for (std::size_t at = 12; at + 8 <= bytes.size();) {
        std::size_t size = 0;
        for (std::size_t i = 0; i < 4; ++i) size |= std::size_t{data[at + 4 + i]} << 8 * i;
        if (size > bytes.size() - at - 8) return 1;
        if (begins_with(bytes, "EXIF", at)) return orientation_of(data + at + 8, size);
        at += 8 + size + size % 2;
    }
    return 1;
}

RgbaPicture decode_webp(const std::string& bytes, const PictureKind& kind) {
    const auto* const data = reinterpret_cast<const std::uint8_t*>(bytes.data());
    WebPBitstreamFeatures found{};
    if (WebPGetFeatures(data, bytes.size(), &found) != VP8_STATUS_OK) refuse_picture(kind, kind.damaged);
    require_side(kind, found.width, found.height);
    if (found.has_animation != 0) refuse_picture(kind, "it is an animation");
    RgbaPicture picture{found.width, found.height, {}};
    picture.pixels.resize(static_cast<std::size_t>(picture.width * picture.height) * 4);
    if (WebPDecodeRGBAInto(data, bytes.size(), picture.pixels.data(), picture.pixels.size(), found.width * 4) == nullptr)
        refuse_picture(kind, kind.damaged);
    return upright(picture, webp_orientation(bytes));
}
#endif

}  // namespace

RgbaPicture decode_upload(const std::string& bytes, const std::string& name, std::int64_t side) {
    const std::vector<std::string> formats = {
        "PNG",
#ifdef HIMAR_WEBP
        "WebP",
#endif
#ifdef HIMAR_JPEG
        "JPEG",
#endif
    };
    const PictureKind kind{name, "it is not an image that can be decoded",
                           "send a " + core::alternatives(formats, "") + " file", side};
#ifdef HIMAR_JPEG
    if (begins_with(bytes, "\xff\xd8\xff")) return decode_jpeg(bytes, kind);
#endif
#ifdef HIMAR_WEBP
    if (begins_with(bytes, "RIFF") && bytes.size() > 12 && begins_with(bytes, "WEBP", 8)) return decode_webp(bytes, kind);
#endif
    return decode_png(bytes, kind);
}

}  // namespace himar::service::openai
