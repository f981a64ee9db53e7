#include "openai/edit.h"

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "edit_files.h"
#include "openai/uploads.h"
#include "text.h"

namespace himar::service::openai {
namespace {

const Words kOwn = {"dilation", "feather"};
const Words kNumbers = {"n", "partial_images", "output_compression", "seed", "guidance_scale", "dilation", "feather"};

// What a client sent; images and masks point into the form.
struct Sent {
    std::vector<const std::string*> images, masks;
    FieldValue fields = FieldValue::object();
};

constexpr const char* kTransparent = "transparent nor opaque; make transparent what is to be drawn anew, and opaque what is to stay";
constexpr const char* kPainted = "black nor white; paint white, or make transparent, what is to be drawn anew";

// Call what throws sentences of a picture, which then are of this field.
template <class Body>
auto about_picture(const std::string& param, Body body) {
    try {
        return body();
    } catch (const std::runtime_error& error) {
        throw wrong(param, error.what());
    }
}

// An image and a mask that fit the model.
Edited fitting(const Pipeline& pipeline, const EditOptions& how = {}) {
    const std::int64_t side = pipeline.info().image_size;
    Edited any{1, side, std::vector<std::uint8_t>(static_cast<std::size_t>(3 * side * side)),
               std::vector<std::uint8_t>(static_cast<std::size_t>(side * side)), how};
    any.masks.front() = 1;
    return any;
}

void check(const Pipeline& pipeline, const Edited& edited, const GenerateOptions& options = {}) {
    pipeline.check_edit(edited.images_view(), edited.masks_view(), options, edited.how);
}

// Refusal for a bundle that cannot edit.
void require_editing(const Pipeline& pipeline) {
    try {
        check(pipeline, fitting(pipeline));
    } catch (const Error& error) {
        // The runtime names the bundle by its path, which is none of a client's business.
        const std::string sentence = error.what();
        const std::size_t lacks = sentence.find(" has no ");
        throw Refusal(error.status() == HIMAR_ERROR_INPUT ? 400 : 500,
                      lacks == std::string::npos ? sentence : "this bundle" + sentence.substr(lacks));
    }
}

// A field's value as JSON has it; null, the default, of an empty one.
FieldValue field(const std::string& name, const std::string& text) {
    try {
        FieldValue(text).dump();
    } catch (const FieldValue::exception&) {
        throw wrong(name, name + " is not UTF-8; send text encoded as UTF-8.");
    }
    if (text.empty()) return nullptr;
    if (name == "stream" && (text == "true" || text == "false")) return text == "true";
    if (!has(kNumbers, name)) return text;
    try {
        FieldValue value = FieldValue::parse(text);
        return value.is_number() ? value : FieldValue(text);
    } catch (const FieldValue::exception&) {
        return text;  // its field has a sentence for it
    }
}

Sent read_parts(const Parts& parts) {
    Words taken = {"image", "mask"}, ignored = {"image[]", "input_fidelity"};  // what the mask keeps is kept exactly
    taken.insert(taken.end(), taken_fields().begin(), taken_fields().end());
    taken.insert(taken.end(), kOwn.begin(), kOwn.end());
    ignored.insert(ignored.end(), ignored_fields().begin(), ignored_fields().end());
    for (const Part& part : parts) check_known(part.name, taken, ignored);
    Sent sent;
    for (const auto& [name, content] : parts) {
        if (name == "image" || name == "image[]") {
            sent.images.push_back(&content);
        } else if (name == "mask") {
            sent.masks.push_back(&content);
        } else {
            if (sent.fields.contains(name)) {
                const auto times = std::count_if(parts.begin(), parts.end(), [&](const Part& part) { return part.name == name; });
                throw wrong(name, name + " is sent " + std::to_string(times) + " times; send it once.");
            }
            sent.fields[name] = field(name, content);
        }
    }
    if (sent.images.empty())
        throw Refusal(400, "the form lacks \"image\"; send the image to be edited.", "image", "missing_required_parameter");
    if (sent.images.size() > 1)
        throw wrong("image", std::to_string(sent.images.size()) +
                                 " images are sent, but one is edited at a time; send a request for each.");
    if (sent.masks.size() > 1)
        throw wrong("mask", std::to_string(sent.masks.size()) + " masks are sent for one image; send one.");
    return sent;
}

bool is_transparent(const RgbaPicture& picture) {
    for (std::size_t i = 3; i < picture.pixels.size(); i += 4)
        if (picture.pixels[i] < 255) return true;
    return false;
}

// What of a picture is transparent.
std::vector<std::uint8_t> transparent(const RgbaPicture& picture, const std::string& name) {
    std::vector<std::uint8_t> values;
    for (std::size_t i = 3; i < picture.pixels.size(); i += 4)
        values.push_back(static_cast<std::uint8_t>(255 - picture.pixels[i]));
    return as_mask(values, name, kTransparent);
}

// What of a mask is transparent or, if nothing is, white.
std::vector<std::uint8_t> read_mask(const std::string& bytes, std::int64_t side) {
    const RgbaPicture picture = decode_upload(bytes, "the mask", side);
    if (is_transparent(picture)) return transparent(picture, "the mask");
    std::vector<std::uint8_t> values;
    for (std::size_t i = 0; i < picture.pixels.size(); i += 4) values.push_back(grey_of(picture.pixels.data() + i));
    return as_mask(values, "the mask", kPainted);
}

// Take the rings that a form asks for; InputError's sentences of those that the model does not take.
EditOptions read_rings(const Pipeline& pipeline, FieldValue& fields) {
    EditOptions how;
    const auto read = [&](const std::string& name, std::int64_t& to) {
        const FieldValue value = fields.value(name, FieldValue());
        fields.erase(name);
        if (value.is_null()) return;
        const bool is_whole = value.is_number_integer() && (!value.is_number_unsigned() || value.get<std::uint64_t>() >> 63 == 0);
        if (!is_whole)
            throw wrong(name, name + " is " + shown(value) + "; it must be a whole number from 0 to " +
                                  std::to_string(pipeline.info().image_size) + ", the side of the images.");
        to = value.get<std::int64_t>();
        about(name, [&] { check(pipeline, fitting(pipeline, how)); });
    };
    read("dilation", how.dilation);
    read("feather", how.feather);
    return how;
}

// Decode an image and what marks the part of it that is drawn anew: without a mask, its own transparent pixels.
Edited read_pictures(const Pipeline& pipeline, const std::string& image, const std::string* mask, const EditOptions& how) {
    const std::int64_t side = pipeline.info().image_size;
    const RgbaPicture picture = about_picture("image", [&] { return decode_upload(image, "the image", side); });
    Edited edited{1, side, {}, {}, {}};
    if (mask != nullptr) {
        edited.masks = about_picture("mask", [&] { return read_mask(*mask, side); });
        for (std::size_t i = 0; i < edited.masks.size(); ++i)
            if (edited.masks[i] == 0 && picture.pixels[4 * i + 3] < 255)
                throw wrong("image", "the image is transparent where the mask keeps it; fill it there, or let the mask draw it.");
    } else if (is_transparent(picture)) {
        edited.masks = about_picture("image", [&] { return transparent(picture, "the image's transparency"); });
    } else {
        throw Refusal(400, "there is no mask, and the image has no transparent pixels; send a mask of what is to be drawn.",
                      "mask", "missing_required_parameter");
    }
    for (std::size_t i = 0; i < picture.pixels.size(); i += 4)
        edited.images.insert(edited.images.end(), picture.pixels.data() + i, picture.pixels.data() + i + 3);
    about(mask == nullptr ? "image" : "mask", [&] { check(pipeline, edited); });
    if (how.feather != 0 && is_transparent(picture))
        throw wrong("feather", "feather is " + std::to_string(how.feather) + ", but the image under the mask, which it blends "
                               "in, is transparent; fill it there, or leave feather out.");
    edited.how = how;
    return edited;
}

}  // namespace

Generation read_edit(const Parts& parts, const Pipeline& pipeline, const ServedModel& model, std::size_t most_images) {
    require_editing(pipeline);
    Sent sent = read_parts(parts);
    const EditOptions how = read_rings(pipeline, sent.fields);
    const std::string* const mask = sent.masks.empty() ? nullptr : sent.masks.front();
    const auto read = [&](int count) {
        const Edited one = read_pictures(pipeline, *sent.images.front(), mask, how);
        Edited all = one;
        for (int i = 1; i < count; ++i) all.append(one);
        return std::make_shared<const Edited>(std::move(all));
    };
    Generation generation = read_fields(Fields(sent.fields), pipeline, model, most_images, read);
    // Guidance is all that may be wrong yet: without a class nothing guides.
    about("guidance_scale", [&] { check(pipeline, *generation.edited, generation.options); });
    return generation;
}

}  // namespace himar::service::openai
