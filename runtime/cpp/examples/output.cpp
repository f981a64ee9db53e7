#include "output.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "png_file.h"
#include "text.h"

namespace fs = std::filesystem;

namespace {

std::string ending_of(const fs::path& path) { return himar::core::lower(path.extension().string()); }

bool is_png(const fs::path& path) { return ending_of(path) == ".png" && !fs::is_directory(path); }

// Endings of files that nobody means for a folder: images, arrays, archives.
bool is_other_file(const fs::path& path) {
    static const std::set<std::string> endings = {
        ".apng", ".avif", ".avifs", ".bmp", ".bz2", ".dib", ".eps", ".exr", ".gif", ".gz", ".hdr", ".heic", ".heif", ".icns",
        ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".json", ".jxl", ".mp4", ".npy", ".npz",
        ".pbm", ".pdf", ".pgm", ".pnm", ".ppm", ".psd", ".pt", ".pth", ".qoi", ".safetensors", ".svg", ".tar", ".tga", ".tgz",
        ".tif", ".tiff", ".txt", ".webm", ".webp", ".xz", ".zip"};
    return endings.count(ending_of(path)) != 0 && !fs::is_directory(path);
}

[[noreturn]] void refuse(const fs::path& out, const std::string& why) {
    throw std::runtime_error("--out is '" + out.string() + "', " + why + "; give a folder that can be written.");
}

void require_writable(const fs::path& folder, const fs::path& out) {
    if (::access(folder.c_str(), W_OK | X_OK) != 0)
        refuse(out, std::string("which cannot be written (") + std::strerror(errno) + ")");
}

// Removes the folders again that are not there yet, of a path: an error or Ctrl-C leaves none behind.
class MadeFolders {
public:
    explicit MadeFolders(const fs::path& out) {
        std::error_code failed;
        for (fs::path each = fs::absolute(out, failed); !fs::exists(each, failed) && each.has_relative_path();
             each = each.parent_path())
            missing_.push_back(each);
    }
    MadeFolders(const MadeFolders&) = delete;
    MadeFolders& operator=(const MadeFolders&) = delete;
    ~MadeFolders() {
        std::error_code failed;
        for (const fs::path& each : missing_) fs::remove(each, failed);
    }

private:
    std::vector<fs::path> missing_;
};

}  // namespace

void prepare_output(const fs::path& out) {
    std::error_code failed;
    if (is_other_file(out))
        throw std::runtime_error("--out is '" + out.string() + "', which cannot be written; give a folder, or a .png for one "
                                 "image.");
    if (is_png(out)) return require_writable(out.has_parent_path() ? out.parent_path() : ".", out);
    const fs::file_status found = fs::status(out, failed);
    if (fs::exists(found) && !fs::is_directory(found)) refuse(out, "which is a file, not a folder");
    const MadeFolders made(out);
    fs::create_directories(out, failed);
    if (failed) refuse(out, "which cannot be made (" + failed.message() + ")");
    require_writable(out, out);
}

void check_output(const fs::path& out, std::size_t images) {
    if (is_png(out) && images != 1)
        throw std::runtime_error("--out is '" + out.string() + "', which holds one image, but " + std::to_string(images) +
                                 " are asked for; give a folder.");
}

void write_images(const fs::path& out, const himar::GenerateOptions& options, const himar::Result& result, bool edited) {
    const himar::View<std::uint8_t> images = result.images();
    const himar::View<std::int64_t> labels = result.labels();
    const bool one = is_png(out);
    if (!one && labels.size() > 0) fs::create_directories(out);
    for (std::size_t i = 0; i < labels.size(); ++i) {
        char index[32];
        std::snprintf(index, sizeof index, "%05llu", static_cast<unsigned long long>(options.first_index + i));
        const char* const unlabelled = edited ? "edit" : "text";
        const std::string label = labels[i] < 0 ? unlabelled : std::to_string(labels[i]);
        const std::string name = std::to_string(options.seed) + "-" + index + "-" + label + ".png";
        const auto image = images.image(static_cast<std::int64_t>(i));
        write_png(one ? out : out / name, image.data(), static_cast<std::uint32_t>(image.shape()[2]),
                  static_cast<std::uint32_t>(image.shape()[1]), result.recipe(i));
    }
}
