#include "output.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <system_error>

#include "png_file.h"

namespace fs = std::filesystem;

void prepare_output(const fs::path& folder) {
    const auto refuse = [&](const std::string& why) {
        throw std::runtime_error("--out is '" + folder.string() + "', " + why + "; give a folder that can be written.");
    };
    std::error_code failed;
    const fs::file_status found = fs::status(folder, failed);
    if (fs::exists(found) && !fs::is_directory(found)) refuse("which is a file, not a folder");
    fs::create_directories(folder, failed);
    if (failed) refuse("which cannot be made (" + failed.message() + ")");
    if (::access(folder.c_str(), W_OK | X_OK) != 0) refuse(std::string("which cannot be written (") + std::strerror(errno) + ")");
}

void write_images(const fs::path& folder, const himar::GenerateOptions& options, const himar::Result& result) {
    const himar::View<std::uint8_t> images = result.images();
    const himar::View<std::int64_t> labels = result.labels();
    for (std::size_t i = 0; i < labels.size(); ++i) {
        char index[32];
        std::snprintf(index, sizeof index, "%05llu", static_cast<unsigned long long>(options.first_index + i));
        const std::string name = std::to_string(options.seed) + "-" + index + "-" + std::to_string(labels[i]) + ".png";
        const auto image = images.image(static_cast<std::int64_t>(i));
        write_png(folder / name, image.data(), static_cast<std::uint32_t>(image.shape()[2]),
                  static_cast<std::uint32_t>(image.shape()[1]), result.recipe(i));
    }
}
