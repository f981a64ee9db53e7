// The edit that a command line asks for: its options, and the images and masks that they make.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "command_line.h"
#include "edit_files.h"
#include "himar/himar.hpp"

struct EditArguments {
    std::string image, mask, label;  // files; a class, "" for none
    std::optional<Placement> place;
    std::optional<std::int64_t> dilation, feather;

    std::vector<Option> options();  // that set them; must not outlive them

    bool given() const { return !image.empty(); }
    himar::EditOptions how() const { return {dilation.value_or(0), feather.value_or(0)}; }

    // UsageError where something is missing, or given although there is no edit; labels, prompts, prompts_file: what
    // --labels, --prompt and --prompts-file say.
    void check(const std::string& labels, const std::vector<std::string>& prompts, const std::string& prompts_file) const;
};

// An image with its mask, as many times as there are variants.
class EditedImages {
public:
    // Read the files. std::runtime_error for one that is no image, or no mask.
    explicit EditedImages(const EditArguments& arguments);

    // Place the image on a canvas of the model's size if that is asked for, and repeat it. std::runtime_error where image,
    // mask and canvas do not fit.
    void prepare(std::int64_t side, std::int64_t count);

    himar::View<std::uint8_t> images() const;  // (count, H, W, 3)
    himar::View<std::uint8_t> masks() const;   // (1, H, W, 1)

private:
    Picture image_;
    std::optional<MaskPicture> mask_;
    std::optional<Placement> place_;
    std::vector<std::uint8_t> images_;
    std::int64_t count_ = 0;
};

// The class of every variant, or nothing. UsageError for a text that names none of the bundle's, or several.
std::vector<std::int64_t> read_class(const EditArguments& arguments, std::int64_t count, const himar::Pipeline* pipeline);
