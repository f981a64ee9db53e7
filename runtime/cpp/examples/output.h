// Where himar-generate writes its images.
#pragma once

#include <filesystem>

#include "himar/himar.hpp"

// Try whether the folder can be made if it is missing, and leave none; of a .png the folder that it goes into must be there.
// std::runtime_error, before any time is spent on images, when it is a file or cannot be written, or names another kind of
// file.
void prepare_output(const std::filesystem::path& out);

// std::runtime_error when `out` is a .png and there is not one image.
void check_output(const std::filesystem::path& out, std::size_t images);

// Make the folder if it is missing and write every image of a result with its recipe: as SEED-INDEX-LABEL.png in a folder, without a class as SEED-INDEX-text.png,
// or of an edit SEED-INDEX-edit.png, or the only one as the .png. std::runtime_error when one cannot be written.
void write_images(const std::filesystem::path& out, const himar::GenerateOptions& options, const himar::Result& result,
                  bool edited);
