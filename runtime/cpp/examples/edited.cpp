#include "edited.h"

#include "labels.h"
#include "text.h"

namespace {

Placement read_place(const std::string& option, const std::string& text) {
    if (text == "centre") return {};
    const std::vector<std::string> parts = himar::core::split(text, ",");
    const auto is_number = [](const std::string& part) {
        return !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos;
    };
    const std::string first = himar::core::trimmed(parts.front()), last = himar::core::trimmed(parts.back());
    if (parts.size() != 2 || !is_number(first) || !is_number(last))
        throw UsageError(option + ": '" + text + "' is neither centre nor LEFT,TOP in pixels, for example 64,0.");
    return {false, std::stoll(first), std::stoll(last)};
}

}  // namespace

std::vector<Option> EditArguments::options() {
    const auto place_it = [this](const std::string& option, const std::string& text) { place = read_place(option, text); };
    constexpr std::int64_t most = 1 << 30;  // the library knows how many the model takes
    return {text_option("edit", image),   text_option("mask", mask),
            {"place", place_it},          text_option("class", label),
            whole_option("dilation", dilation, 0, most), whole_option("feather", feather, 0, most)};
}

void EditArguments::check(const std::string& labels, const std::vector<std::string>& prompts,
                          const std::string& prompts_file) const {
    if (!given()) {
        const char* const other = !mask.empty()    ? "--mask"
                                  : place          ? "--place"
                                  : !label.empty() ? "--class"
                                  : dilation       ? "--dilation"
                                  : feather        ? "--feather"
                                                   : nullptr;
        if (other != nullptr) throw UsageError(std::string(other) + " is of an edit; name the image with --edit.");
        return;
    }
    if (!labels.empty()) throw UsageError("--labels is given, but an edit shows one class, or none; give --class.");
    if (!prompts_file.empty())
        throw UsageError("--prompts-file is given, but an edit shows one text, or none; give --prompt.");
    if (prompts.size() > 1)
        throw UsageError("--prompt is given " + std::to_string(prompts.size()) +
                         " times, but an edit shows one text, or none; give it once.");
    if (!label.empty() && !prompts.empty())
        throw UsageError("--class and --prompt are both given; give the one that the model takes.");
    if (mask.empty() && !place)
        throw UsageError("--mask is missing; only --place, which draws around a smaller image, needs none.");
}

EditedImages::EditedImages(const EditArguments& arguments)
    : image_(read_picture(arguments.image, "image")), place_(arguments.place) {
    if (!arguments.mask.empty()) mask_ = read_mask(arguments.mask);
}

void EditedImages::prepare(std::int64_t side, std::int64_t count) {
    if (place_) place_on_canvas(image_, mask_, side, *place_);
    count_ = count;
    images_.reserve(image_.pixels.size() * static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) images_.insert(images_.end(), image_.pixels.begin(), image_.pixels.end());
}

himar::View<std::uint8_t> EditedImages::images() const {
    return {images_.data(), {count_, image_.height, image_.width, 3}};
}

himar::View<std::uint8_t> EditedImages::masks() const {
    return {mask_->pixels.data(), {1, mask_->height, mask_->width, 1}};
}

std::vector<std::int64_t> read_class(const EditArguments& arguments, std::int64_t count, const himar::Pipeline* pipeline) {
    if (arguments.label.empty()) return {};
    const std::vector<std::int64_t> labels = read_labels("--class", arguments.label, 1, pipeline);
    if (labels.size() > 1)
        throw UsageError("--class: '" + arguments.label + "' names " + std::to_string(labels.size()) + " classes; give one.");
    return std::vector<std::int64_t>(labels.empty() ? 0 : static_cast<std::size_t>(count), labels.empty() ? 0 : labels[0]);
}
