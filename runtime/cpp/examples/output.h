// Where himar-generate writes its images.
#pragma once

#include <filesystem>

#include "himar/himar.hpp"

// Make the folder if it is missing. std::runtime_error, before any time is spent on images, when it is a file or cannot
// be written.
void prepare_output(const std::filesystem::path& folder);

// Write every image of a result as SEED-INDEX-LABEL.png with its recipe. std::runtime_error when one cannot be written.
void write_images(const std::filesystem::path& folder, const himar::GenerateOptions& options, const himar::Result& result);
