#include "families/hmar/model.h"

#include <utility>

#include "bundle/bundle.h"
#include "bundle/json_reader.h"
#include "code_draws.cuh"
#include "engines/networks.h"
#include "error.h"
#include "families/hmar/buffers.h"
#include "families/hmar/lane.h"
#include "families/hmar/sampling.h"
#include "families/hmar/schedule_text.h"

namespace himar::core::hmar {
namespace {

// Sizes beyond these overflow the kernels' 32-bit item numbers.
constexpr std::int64_t kMostPixels = 1 << 15, kMostWidth = 1 << 20, kMostChannels = 1 << 12, kMostDepth = 1 << 12;

[[noreturn]] void refuse_sides(const JsonReader& reader, const Json& sides, const std::string& why) {
    constexpr std::size_t most = 80;
    const std::string text = listed(sides);
    throw BundleError(reader.source() + ": model.patch_nums is " +
                      (text.size() <= most ? text : text.substr(0, most - 3) + "...") + "; " + why + ".");
}

Scales read_scales(const JsonReader& reader) {
    const Json& sides = reader.list("patch_nums");
    Scales scales;
    for (const Json& side : sides) {
        if (!side.is_number_integer() || side < 1 || side > Scales::kMostSide)
            refuse_sides(reader, sides, "every side is a whole number from 1 to " + std::to_string(Scales::kMostSide));
        scales.sides.push_back(side.get<std::int64_t>());
    }
    if (scales.count() < 2) refuse_sides(reader, sides, "a model has at least two scales");
    if (scales.count() > Scales::kMostScales)
        refuse_sides(reader, sides, "a model has at most " + std::to_string(Scales::kMostScales) + " scales");
    for (std::size_t scale = 1; scale < scales.count(); ++scale)
        if (scales.sides[scale] < scales.sides[scale - 1])
            refuse_sides(reader, sides, "sides run from coarse to fine, so none may shrink");
    return scales;
}

ArrayEntry read_array(const JsonReader& reader, const std::vector<std::int64_t>& shape) {
    if (const std::string dtype = reader.text("dtype"); dtype != "float32")
        throw BundleError(reader.source() + ": " + reader.at("dtype") + " is '" + dtype + "'; it must be 'float32'.");
    const Json& found = reader.list("shape");
    if (found != Json(shape))
        throw BundleError(reader.source() + ": " + reader.at("shape") + " is " + shown(found) + "; it must be " +
                          shown(Json(shape)) + ".");
    ArrayEntry entry{inside(reader.text("file"), reader.source()), reader.whole("offset"), 1};
    for (const std::int64_t size : shape) entry.count *= size;
    return entry;
}

const Sampling& of_this_family(const Settings& settings) { return static_cast<const Sampling&>(settings); }

}  // namespace

std::vector<std::string> HmarModel::components() const {
    std::vector<std::string> names = {kConditions, kTrunk, kNextScaleTail};
    if (masked) names.emplace_back(kMaskedTail);
    names.emplace_back("vae_decoder");
    return names;
}

std::vector<std::string> HmarModel::first_needed(const Manifest& manifest) const {
    if (!of_this_family(*manifest.sampling.front().second).all_scales) return {};
    return {kVarTrunk, kVarTail};
}

std::size_t HmarModel::resident_bytes(const Manifest& manifest) const {
    std::size_t bytes = Buffers::bytes(*this, manifest.max_batch);
    for (const std::string& name : first_needed(manifest))
        bytes += PastBuffers::bytes(*this, name == kVarTrunk ? base() : tail, manifest.max_batch);
    return bytes;
}

std::vector<std::string> HmarModel::stages() const {
    std::vector<std::string> names;
    for (std::size_t scale = 0; scale < scales.count(); ++scale) names.push_back("scale " + std::to_string(scale + 1));
    return names;
}

std::shared_ptr<const Settings> HmarModel::read_settings(const JsonReader& reader) const {
    return std::make_shared<const Sampling>(read_sampling(reader));
}

std::shared_ptr<const Settings> HmarModel::changed(const Settings& setting, const himar_generate_params& params) const {
    Sampling sampling = of_this_family(setting);
    if (params.hmar != nullptr) change(sampling, *params.hmar);
    sampling.check_model(scales, vocab);
    if (sampling.masks() && !masked)
        throw InputError("schedule has masked steps, but this model has the next-scale network alone; leave schedule "
                         "empty.");
    return std::make_shared<const Sampling>(std::move(sampling));
}

std::shared_ptr<const Settings> HmarModel::changed_for_edit(const Settings& setting, const himar_generate_params& params,
                                                            bool shown) const {
    if (!shown && params.hmar != nullptr) check_unguided(*params.hmar);
    Sampling sampling = of_this_family(*changed(setting, params));
    if (sampling.smooth)
        throw InputError("smooth is set, but a smooth preview draws no codes; leave smooth out to edit an image.");
    if (!shown) sampling.guidance = 0;
    return std::make_shared<const Sampling>(std::move(sampling));
}

void HmarModel::check_dilation(std::int64_t rings) const {
    if (rings != 0)
        throw InputError("dilation is " + std::to_string(rings) + ", but an HMAR model draws a ring around the mask at its "
                         "fine scales by itself; leave it out.");
}

void HmarModel::check_draws(const himar_draws& draws, const Settings& settings) const {
    const bool smooth = of_this_family(settings).smooth;
    if (smooth ? draws.gumbel == nullptr : draws.uniforms == nullptr)
        throw InputError(std::string("himar_draws.") + (smooth ? "gumbel" : "uniforms") +
                         " is NULL, and the request draws from it; give the function, or no draws.");
}

Json HmarModel::to_json(const Settings& settings) const { return of_this_family(settings).to_json(); }

std::unique_ptr<Lane> HmarModel::make_lane(const Bundle& bundle, Networks networks) const {
    const auto constants = std::make_shared<const Constants>(*this, bundle, *networks.queue);
    return std::make_unique<HmarLane>(std::move(networks), *this, constants, bundle.manifest().max_batch);
}

std::shared_ptr<Model> read_model(const JsonReader& reader) {
    const auto made = std::make_shared<HmarModel>();
    HmarModel& model = *made;
    model.width = reader.positive("width", kMostWidth);
    model.depth = reader.positive("depth", kMostDepth);
    model.heads = reader.positive("heads", kMostWidth);
    model.classes = reader.positive("classes", kMostWidth);
    model.vocab = reader.positive("vocab", kMostCodes);
    model.latent_channels = reader.positive("latent_channels", kMostChannels);
    model.vae_stride = reader.positive("vae_stride", kMostPixels);
    if (const auto found = reader.values().find("masked"); found != reader.values().end()) {
        if (!found->is_boolean())
            throw BundleError(reader.source() + ": model.masked is " + shown(*found) + "; it must be true or false.");
        model.masked = found->get<bool>();
    }
    model.tail = reader.whole("tail");
    if (model.tail < 0 || model.tail > model.depth)
        throw BundleError(reader.source() + ": model.tail is " + std::to_string(model.tail) +
                          "; it must be 0 to the depth " + std::to_string(model.depth) + ".");
    model.scales = read_scales(reader);
    if (model.image_side() > kMostPixels)
        throw BundleError(reader.source() + ": model.patch_nums and model.vae_stride give images of " +
                          std::to_string(model.image_side()) + " pixels a side; at most " + std::to_string(kMostPixels) +
                          " fit.");
    const JsonReader codebook = reader.object("codebook");
    const std::int64_t C = model.latent_channels;
    model.embedding = read_array(codebook.object("embedding"), {model.vocab, C});
    model.weights = read_array(codebook.object("weights"), {Scales::kConvolutions, C, C, 3, 3});
    model.biases = read_array(codebook.object("biases"), {Scales::kConvolutions, C});
    return made;
}

}  // namespace himar::core::hmar
