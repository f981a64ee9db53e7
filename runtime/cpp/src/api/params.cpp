#include "api/params.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>

#include "api/c_guard.h"
#include "text.h"

namespace himar::core {
namespace {

constexpr std::uint64_t kMostImages = std::uint64_t{1} << 32;

template <class Params>
Params defaults() {
    Params params{};
    params.struct_size = sizeof params;
    return params;
}

himar_load_params known(const himar_load_params& params) {
    return checked_params(params, "himar_load_params", "himar_load_params_init");
}

himar_generate_params known(const himar_generate_params& params) {
    return checked_params(params, "himar_generate_params", "himar_generate_params_init", 
                          {offsetof(himar_generate_params, hmar), offsetof(himar_generate_params, prompts),
                           offsetof(himar_generate_params, seeds)});
}

himar_edit_params known(const himar_edit_params& params) {
    return checked_params(params, "himar_edit_params", "himar_edit_params_init", {offsetof(himar_edit_params, dilation)});
}

himar_draws read_draws(const himar_generate_params& params, const Request& request, const Model& model) {
    const himar_draws known =
        checked(*params.draws, "himar_draws", "set it to sizeof(himar_draws)", {offsetof(himar_draws, uniforms)});
    model.check_draws(known, *request.settings);
    if (params.seed != 0)
        throw InputError("both seed " + std::to_string(params.seed) +
                         " and draws are given; draws would ignore the seed: give one of them.");
    if (params.seeds != nullptr || params.seed_count > 0)
        throw InputError("both seeds and draws are given; give one of them.");
    return known;
}

std::vector<std::int64_t> read_labels(const himar_generate_params& params, std::int64_t classes) {
    if (params.label_count == 0 || params.labels == nullptr)
        throw InputError("labels is empty; give at least one class number.");
    if (params.label_count > kMostImages)
        throw InputError("label_count is " + std::to_string(params.label_count) + "; at most 2^32 images can be counted.");
    for (std::size_t i = 0; i < params.label_count; ++i)
        if (params.labels[i] < 0 || params.labels[i] >= classes)
            throw InputError("label " + std::to_string(params.labels[i]) + " (number " + std::to_string(i) +
                             " of the list) is not a class of this model; classes are the whole numbers 0 to " +
                             std::to_string(classes - 1) + ".");
    return {params.labels, params.labels + params.label_count};
}

bool has_prompts(const himar_generate_params& params) { return params.prompts != nullptr || params.prompt_count > 0; }

bool has_contexts(const himar_generate_params& params) { return params.contexts != nullptr || params.context_count > 0; }

// InputError unless one of labels, prompts and contexts is given, and one that the model takes, `texts` of one from text.
void require_one(const himar_generate_params& params, const ModelFacts& facts, const char* texts) {
    std::vector<std::string> names;
    if (params.label_count > 0) names.emplace_back("labels");
    if (has_prompts(params)) names.emplace_back("prompts");
    if (has_contexts(params)) names.emplace_back("contexts");
    const bool from_text = facts.is_from_text();
    if (names.empty() && !from_text) return;  // no labels: read_labels says so
    const std::string takes = from_text ? texts : "labels";
    if (names.size() != 1)
        throw InputError((names.empty() ? "nothing is" : joined(names, " and ") + " are") +
                         " given to say what to generate; give " + takes + ", as this bundle's model takes them.");
    if (from_text == (names.front() == "labels"))
        throw InputError(names.front() + " are given, but this bundle's model makes images " +
                         (from_text ? "from text" : "of classes") + "; give " + takes + ".");
}

RequestTexts read_contexts(const himar_generate_params& params, const ModelFacts& facts) {
    const std::int64_t K = facts.context_length, W = facts.context_width;
    const std::string shape = ", " + std::to_string(K) + ", " + std::to_string(W) + ")";
    if (params.context_count == 0 || params.contexts == nullptr)
        throw InputError("contexts has shape (0" + shape + "; give float32 (images" + shape +
                         ", the last hidden state of the model's text tower, of at least one image.");
    const auto size = static_cast<std::size_t>(K * W);
    for (std::size_t i = 0; i < params.context_count; ++i)
        if (!std::all_of(params.contexts + i * size, params.contexts + (i + 1) * size, [](float value) { return std::isfinite(value); }))
            throw InputError("context " + std::to_string(i) + " holds values that are not finite; compute it again.");
    RequestTexts texts;
    texts.contexts = params.contexts;
    return texts;
}

void check_count(std::size_t images) {
    if (images > kMostImages)
        throw InputError(std::to_string(images) + " images are asked for; at most 2^32 can be counted.");
}

[[noreturn]] void refuse_size(const std::string& what, const std::int64_t* sides, const std::string& whose,
                              std::int64_t side, const std::string& advice) {
    throw InputError(what + " 0 has " + std::to_string(sides[1]) + " × " + std::to_string(sides[0]) + " pixels, but " +
                     whose + std::to_string(side) + " × " + std::to_string(side) + "; " + advice + ".");
}

// Images and masks that fit a model whose images have this side; `shown` of what each is to show, none or one for each,
// which are called `kind`.
Edit read_images(const himar_edit_params& edit, std::int64_t side, std::size_t shown, const std::string& kind) {
    const std::int64_t* const shape = edit.image_shape;
    const auto need = [](const char* name, const std::uint8_t* pixels, std::int64_t count) {
        if (pixels == nullptr || count < 1)
            throw InputError(std::string(name) + " is empty; give at least one image and its mask.");
        if (static_cast<std::uint64_t>(count) > kMostImages)
            throw InputError(std::string(name) + " are " + std::to_string(count) + "; at most 2^32 can be counted.");
    };
    need("images", edit.images, shape[0]);
    if (shape[3] != 3)
        throw InputError("image 0 has type uint8 and shape (" + std::to_string(shape[1]) + ", " + std::to_string(shape[2]) +
                         ", " + std::to_string(shape[3]) + "); give RGB pixels uint8 (height, width, 3), 0 to 255.");
    if (shape[1] != side || shape[2] != side)
        refuse_size("image", shape + 1, "the model's images have ", side,
                    "crop or resize it first, or place a smaller image on a canvas");
    need("masks", edit.masks, edit.mask_shape[0]);
    const auto given = [&](const std::string& what) { return std::to_string(shape[0]) + " images and " + what + " are given; give "; };
    if (edit.mask_shape[0] != shape[0] && edit.mask_shape[0] != 1)
        throw InputError(given(std::to_string(edit.mask_shape[0]) + " masks") + "one mask per image, or one.");
    if (shown != 0 && shown != static_cast<std::size_t>(shape[0]))
        throw InputError(given(std::to_string(shown) + " " + kind + "s") + "one " + kind + " per image.");
    if (edit.mask_shape[1] != side || edit.mask_shape[2] != side)
        refuse_size("mask", edit.mask_shape + 1, "its image has ", side, "give a mask of the image's size");
    const Edit read{edit.images, edit.masks, shape[0], side, edit.mask_shape[0] == 1, edit.dilation, edit.feather};
    read.check_masks();
    read.check_rings();
    return read;
}

// InputError unless a list has an entry for each image; a null one has none.
template <class Value>
void check_listed(const char* name, const Value* list, std::size_t count, std::size_t images) {
    const std::size_t listed = list == nullptr ? 0 : count;
    if (listed != images)
        throw InputError(std::to_string(listed) + " " + name + " are given for " + std::to_string(images) +
                         " images; give one for each.");
}

// Images of one seed count on from first_index; those with seeds of their own each have it, as a request for one alone.
std::vector<ImageOrigin> read_origins(const himar_generate_params& params, std::size_t images) {
    const bool has_seeds = params.seeds != nullptr || params.seed_count > 0;
    const bool has_indices = params.indices != nullptr || params.index_count > 0;
    if (has_seeds) {
        if (params.seed != 0) throw InputError("both seeds and seed are given; give one of them.");
        check_listed("seeds", params.seeds, params.seed_count, images);
    }
    if (has_indices) {
        if (params.first_index != 0) throw InputError("both indices and first_index are given; give one of them.");
        check_listed("indices", params.indices, params.index_count, images);
    }
    const std::uint64_t last = kMostImages - (has_seeds ? 1 : images);
    if (params.first_index > last)
        throw InputError("first_index is " + std::to_string(params.first_index) + "; it must be 0 to " +
                         std::to_string(last) + ".");
    std::vector<ImageOrigin> origins(images);
    for (std::size_t i = 0; i < images; ++i) {
        origins[i].seed = has_seeds ? params.seeds[i] : params.seed;
        origins[i].index = has_indices ? params.indices[i] : static_cast<u32>(params.first_index + (has_seeds ? 0 : i));
    }
    return origins;
}

const Settings& choose_setting(const char* name, const Manifest& manifest) {
    if (name == nullptr) return *manifest.sampling.front().second;
    std::vector<std::string> known;
    for (const auto& [each, setting] : manifest.sampling) {
        if (each == name) return *setting;
        known.push_back(each);
    }
    throw InputError("sampling " + in_quotes(name) + " is not in this bundle; it has " + joined(known) + ".");
}

std::string text_or(const char* text, const char* other) { return text == nullptr ? other : in_quotes(text); }

std::string counted(const char* name, std::size_t count) {
    return count == 0 ? "" : std::string(" ") + name + "=" + std::to_string(count);
}

std::string described(const himar_generate_params& params) {
    std::string text = "labels=[";
    const std::size_t most = 16;
    for (std::size_t i = 0; params.labels != nullptr && i < std::min(params.label_count, most); ++i)
        text += (i == 0 ? "" : ",") + std::to_string(params.labels[i]);
    if (params.label_count > most) text += ",… (" + std::to_string(params.label_count) + ")";
    return text + "] seed=" + std::to_string(params.seed) + " first_index=" + std::to_string(params.first_index) +
           " sampling=" + text_or(params.sampling, "first") + described_settings(params) +
           " on_step=" + (params.on_step == nullptr ? "none" : "given") +
           " draws=" + (params.draws == nullptr ? "the seed's" : "given") + counted("prompts", params.prompt_count) +
           counted("contexts", params.context_count) + counted("seeds", params.seed_count) +
           counted("indices", params.index_count);
}

}  // namespace

himar_status write_text(const std::string& whole, char* text, std::size_t capacity, std::size_t* needed) {
    if (capacity > 0) {
        const std::size_t fits = std::min(whole.size(), capacity - 1);
        std::memcpy(&given(text, "text"), whole.data(), fits);
        text[fits] = '\0';
    }
    if (needed != nullptr) *needed = whole.size() + 1;
    return HIMAR_OK;
}

LoadRequest read_load(const himar_load_params* params) {
    LoadRequest request;
    if (params == nullptr) return request;
    const himar_load_params p = known(*params);
    if (p.device != nullptr) request.device = p.device;
    if (p.backend != nullptr) request.backend = p.backend;
    request.threads = p.threads;
    return request;
}

std::shared_ptr<const Settings> read_settings(const himar_generate_params& params, const Manifest& manifest) {
    const himar_generate_params p = known(params);
    const Settings& setting = choose_setting(p.sampling, manifest);
    refuse_other_settings(*manifest.model, p);
    std::shared_ptr<const Settings> settings = manifest.model->changed(setting, p);
    manifest.model->check_components(*settings, manifest);
    return settings;
}

Request read_request(const himar_generate_params& params, const Manifest& manifest, Prompts& prompts) {
    const himar_generate_params p = known(params);
    const ModelFacts facts = manifest.model->facts();
    require_one(p, facts, "prompts, or contexts");
    Request request;
    if (!facts.is_from_text()) {
        request.labels = read_labels(p, facts.classes);
    } else {
        const bool are_prompts = has_prompts(p);
        const std::size_t images = are_prompts ? p.prompt_count : p.context_count;
        check_count(images);
        request.texts = are_prompts ? prompts.read(p.prompts, p.prompt_count) : read_contexts(p, facts);
        request.labels.resize(images, kNoClass);
    }
    request.origins = read_origins(p, request.labels.size());
    request.settings = read_settings(p, manifest);
    if (p.draws != nullptr) request.draws = read_draws(p, request, *manifest.model);
    return request;
}

Request read_edit(const himar_generate_params& params, const himar_edit_params& given_edit, const Bundle& bundle,
                  Prompts& prompts) {
    const himar_generate_params p = known(params);
    const himar_edit_params edit = known(given_edit);
    const Model& model = *bundle.manifest().model;
    const ModelFacts facts = model.facts();
    if (has_contexts(p))
        throw InputError("contexts are given, but an edit takes none; give prompts for what it is to show, or nothing.");
    const bool shown = p.label_count > 0 || has_prompts(p);
    if (shown) require_one(p, facts, "prompts");
    Request request;
    request.settings = model.changed_for_edit(choose_setting(p.sampling, bundle.manifest()), p, shown);
    refuse_other_settings(model, p);
    model.check_components(*request.settings, bundle.manifest());
    model.check_dilation(edit.dilation);
    for (const std::string& name : model.editing())
        if (bundle.manifest().components.count(name) == 0)
            throw InputError(bundle.root().string() + " has no " + name + ", which " +
                             (name == kEncoder ? "reads the images to be edited" : "edits need") + "; " +
                             model.editing_advice() + ".");
    if (has_prompts(p)) {
        request.texts = prompts.read(p.prompts, p.prompt_count);
        request.edit = read_images(edit, facts.image_size, p.prompt_count, "prompt");
    } else {
        if (shown) request.labels = read_labels(p, facts.classes);
        request.edit = read_images(edit, facts.image_size, request.labels.size(), "label");
    }
    request.labels.resize(static_cast<std::size_t>(request.edit->count), kNoClass);
    request.origins = read_origins(p, request.labels.size());
    if (p.draws != nullptr) request.draws = read_draws(p, request, model);
    return request;
}

}  // namespace himar::core

using namespace himar::core;

himar_status himar_load_params_init(himar_load_params* params) {
    return guarded([&] {
        given(params, "params") = defaults<himar_load_params>();
        return HIMAR_OK;
    });
}

himar_status himar_generate_params_init(himar_generate_params* params) {
    return guarded([&] {
        given(params, "params") = defaults<himar_generate_params>();
        return HIMAR_OK;
    });
}

himar_status himar_edit_params_init(himar_edit_params* params) {
    return guarded([&] {
        given(params, "params") = defaults<himar_edit_params>();
        return HIMAR_OK;
    });
}

himar_status himar_load_params_to_string(const himar_load_params* params, char* text, size_t capacity, size_t* needed) {
    return guarded([&] {
        const himar_load_params p = known(given(params, "params"));
        const std::string threads = p.threads == 0 ? "all" : std::to_string(p.threads);
        return write_text("device=" + text_or(p.device, "'cpu'") + " backend=" + text_or(p.backend, "the bundle's") +
                              " threads=" + threads,
                          text, capacity, needed);
    });
}

himar_status himar_generate_params_to_string(const himar_generate_params* params, char* text, size_t capacity,
                                             size_t* needed) {
    return guarded([&] { return write_text(described(known(given(params, "params"))), text, capacity, needed); });
}
