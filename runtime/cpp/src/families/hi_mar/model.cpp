#include "families/hi_mar/model.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "bundle/bundle.h"
#include "bundle/json_reader.h"
#include "engines/networks.h"
#include "error.h"
#include "families/hi_mar/buffers.h"
#include "families/hi_mar/editing.h"
#include "families/hi_mar/held.h"
#include "families/hi_mar/lane.h"
#include "families/hi_mar/sampling.h"
#include "text.h"

namespace himar::core::hi_mar {
namespace {

// Sizes beyond these overflow the draws' counters or the kernels' 32-bit item numbers.
constexpr std::int64_t kMostSide = 256, kMostPixels = 1 << 15, kMostWidth = 1 << 20;

// The enumerator that model.`key` names by one of the words; `absent` where there is no such key, as before schema 1.1.
template <class Enumeration>
Enumeration choice(const JsonReader& reader, const char* key, const std::vector<std::string>& known, Enumeration absent) {
    const auto found = reader.values().find(key);
    if (found == reader.values().end()) return absent;
    for (std::size_t word = 0; word < known.size(); ++word)
        if (*found == known[word]) return static_cast<Enumeration>(word);
    throw BundleError(reader.source() + ": " + reader.at(key) + " is " + shown(*found) + "; this himar knows '" +
                      joined(known, "', '") + "': install a newer himar.");
}

// The context of a model from text, which has no classes.
void read_text(const JsonReader& reader, HiMarModel& model) {
    const auto classes = reader.values().find("classes");
    if (classes != reader.values().end() && *classes != 0)
        throw BundleError(reader.source() + ": model.classes is " + shown(*classes) +
                          ", but model.context is 'text', which has none; build the bundle again.");
    model.context_width = reader.positive("context_width", kMostWidth);
    const JsonReader empty = reader.object("empty_context");
    model.empty_context = {inside(empty.text("file"), reader.source()), empty.text("sha256")};
}

const Sampling& of_this_family(const Settings& settings) { return static_cast<const Sampling&>(settings); }

}  // namespace

std::vector<PhaseInfo> HiMarModel::phases() const {
    // Bundles of other phases lack the released names, so a reader that knows the released phases alone refuses them.
    const bool released = pivots == Pivots::kCondition && low_head == HeadKind::kMlp && high_head == HeadKind::kDit;
    const auto head = [&](HeadKind kind, const char* phase) {
        const std::string name = kind == HeadKind::kMlp ? "mlp_head" : "dit_head";
        return released ? name : name + "_" + phase;
    };
    const std::int64_t pivot_width = single_scale() ? 0 : pivots == Pivots::kVisual ? channels : width;
    std::vector<PhaseInfo> phases;
    if (!single_scale())
        phases.push_back({true, "transformer_low", head(low_head, "low"), low_head, cond_scale, 0, "low_tokens",
                          pivots == Pivots::kCondition, 0});
    phases.push_back({false, "transformer_high", head(high_head, "high"), high_head, grid(), low_positions(), "tokens",
                      false, pivot_width});
    return phases;
}

std::vector<std::string> HiMarModel::components() const {
    std::vector<std::string> names;
    for (const PhaseInfo& phase : phases()) names.insert(names.end(), {phase.transformer, phase.head});
    return names;
}

ModelFacts HiMarModel::facts() const {
    ModelFacts facts{classes, img_size, channels, grid(), cond_scale, cond_scale, 0};
    if (is_from_text()) facts.context_length = buffer, facts.context_width = context_width;
    return facts;
}

std::vector<std::string> HiMarModel::editing() const {
    std::vector<std::string> names = {kEncoder};
    if (has_edit_transformer()) names.emplace_back(kEditTransformer);
    return names;
}

std::vector<std::string> HiMarModel::deferred() const {
    std::vector<std::string> names = editing();
    if (is_from_text()) names.emplace_back(kTextEncoder);
    for (const PhaseInfo& phase : phases())
        if (phase.kind == HeadKind::kDit) names.insert(names.end(), {phase.modulations(), phase.held()});
    return names;
}

std::vector<std::string> HiMarModel::first_needed(const Manifest& manifest) const {
    std::vector<std::string> names;
    if (is_from_text()) names.emplace_back(kTextEncoder);
    if (of_this_family(*manifest.sampling.front().second).modulation_interval == 1) return names;
    for (const PhaseInfo& phase : phases())
        if (phase.kind == HeadKind::kDit) names.insert(names.end(), {phase.modulations(), phase.held()});
    return names;
}

std::size_t HiMarModel::resident_bytes(const Manifest& manifest) const {
    const std::vector<std::string> needed = first_needed(manifest);
    std::vector<std::int64_t> widths;
    std::size_t held = 0;
    for (const PhaseInfo& phase : phases()) {
        const auto head = manifest.components.find(phase.head), maker = manifest.components.find(phase.modulations());
        if (head == manifest.components.end()) return 0;  // which refuses the bundle soon
        widths.push_back(condition_width(head->second));
        if (maker != manifest.components.end() && std::find(needed.begin(), needed.end(), maker->first) != needed.end())
            held += HeldModulations::bytes(maker->second, 2 * manifest.max_batch);
    }
    return Buffers::bytes(*this, manifest.max_batch, widths) + held;
}

std::int64_t condition_width(const ComponentSpec& head) {
    constexpr std::int64_t most = 1 << 20;
    for (const TensorSpec& tensor : head.inputs) {
        if (tensor.name != "condition" || tensor.shape.empty()) continue;
        const auto* const width = std::get_if<std::int64_t>(&tensor.shape.back());
        if (width != nullptr && *width <= most) return *width;
    }
    throw BundleError(head.name + " has no input condition of a fixed width; build the bundle again.");
}

std::vector<std::string> HiMarModel::stages() const {
    std::vector<std::string> names;
    for (const PhaseInfo& phase : phases()) names.emplace_back(phase.name());
    return names;
}

std::shared_ptr<const Settings> HiMarModel::read_settings(const JsonReader& reader) const {
    return std::make_shared<const Sampling>(read_sampling(reader));
}

std::shared_ptr<const Settings> HiMarModel::changed(const Settings& setting, const himar_generate_params& params) const {
    Sampling sampling = of_this_family(setting);
    if (params.hi_mar != nullptr) change(sampling, *params.hi_mar, single_scale());
    sampling.check_positions(low_positions(), high_positions());
    const std::vector<PhaseInfo> all = phases();
    if (sampling.modulation_interval > 1 &&
        std::none_of(all.begin(), all.end(), [](const PhaseInfo& phase) { return phase.kind == HeadKind::kDit; }))
        throw InputError("modulation_interval is " + std::to_string(sampling.modulation_interval) +
                         ", but this bundle's model has no DiT head, whose modulations could be held; leave it out.");
    return std::make_shared<const Sampling>(std::move(sampling));
}

std::shared_ptr<const Settings> HiMarModel::changed_for_edit(const Settings& setting, const himar_generate_params& params,
                                                             bool shown) const {
    if (shown) return changed(setting, params);
    if (params.hi_mar != nullptr) check_unguided(*params.hi_mar);
    Sampling sampling = of_this_family(*changed(setting, params));
    sampling.low_guidance = sampling.high_guidance = 1;
    sampling.low_guidances.clear();
    sampling.high_guidances.clear();
    return std::make_shared<const Sampling>(std::move(sampling));
}

std::vector<std::int64_t> HiMarModel::edit_kinds(const Edit& edit) const {
    std::vector<std::int64_t> kinds;
    for (std::int64_t place = 0; place < edit.count; ++place) {
        const DrawnCounts counts = drawn_counts(edit, place, *this);
        kinds.push_back(counts.low * (high_positions() + 1) + counts.high);
    }
    return kinds;
}

std::int64_t HiMarModel::steps(const Settings& settings, const Edit* edit) const {
    std::optional<DrawnCounts> counts;
    if (edit != nullptr) counts = drawn_counts(*edit, 0, *this);
    return static_cast<std::int64_t>(plan(of_this_family(settings), low_positions(), high_positions(), counts).size());
}

Json HiMarModel::to_json(const Settings& settings) const { return of_this_family(settings).to_json(); }

void HiMarModel::check_components(const Settings& settings, const Manifest& manifest) const {
    const std::int64_t interval = of_this_family(settings).modulation_interval;
    if (interval == 1) return;
    for (const PhaseInfo& phase : phases()) {
        if (phase.kind != HeadKind::kDit) continue;
        for (const std::string& name : {phase.modulations(), phase.held()})
            if (manifest.components.count(name) == 0)
                throw InputError("modulation_interval is " + std::to_string(interval) + ", but this bundle has no " + name +
                                 "; build it with --held-modulations, or leave the setting out.");
    }
}

void HiMarModel::check_draws(const himar_draws& draws, const Settings&) const {
    if (draws.order == nullptr || draws.noise == nullptr)
        throw InputError(std::string("himar_draws.") + (draws.order == nullptr ? "order" : "noise") +
                         " is NULL; give both functions, or no draws.");
}

std::unique_ptr<Lane> HiMarModel::make_lane(const Bundle& bundle, Networks networks) const {
    std::shared_ptr<const std::vector<float>> empty;
    if (is_from_text())
        empty = std::make_shared<const std::vector<float>>(
            bundle.floats(empty_context, {buffer, context_width}, "model.empty_context"));
    return std::make_unique<HiMarLane>(std::move(networks), *this, bundle.manifest().max_batch, std::move(empty));
}

std::shared_ptr<Model> read_model(const JsonReader& reader) {
    const auto made = std::make_shared<HiMarModel>();
    HiMarModel& model = *made;
    model.pivots = choice(reader, "pivots", {"none", "visual", "condition"}, Pivots::kCondition);
    model.low_head = choice(reader, "low_head", {"mlp", "dit"}, HeadKind::kMlp);
    model.high_head = choice(reader, "high_head", {"mlp", "dit"}, HeadKind::kDit);
    model.width = reader.positive("width", kMostWidth);
    if (choice(reader, "context", {"class", "text"}, 0) != 0)
        read_text(reader, model);
    else
        model.classes = reader.positive("classes", kMostWidth);
    model.buffer = reader.positive("buffer", kMostPixels);
    if (!model.single_scale())
        model.cond_scale = reader.positive("cond_scale", kMostSide);
    else if (reader.whole("cond_scale") != 0)
        throw BundleError(reader.source() + ": model.cond_scale is " + std::to_string(reader.whole("cond_scale")) +
                          ", but model.pivots is 'none', which is a single scale; build the bundle again.");
    model.img_size = reader.positive("img_size", kMostPixels);
    model.vae_stride = reader.positive("vae_stride", kMostPixels);
    model.channels = reader.positive("channels", kMostWidth / 4);
    model.vae_scale = reader.number("vae_scale");
    if (!(model.vae_scale > 0 && std::isfinite(model.vae_scale)))
        throw BundleError(reader.source() + ": model.vae_scale is " + shown(model.vae_scale) +
                          "; it must be a positive number.");
    if (model.img_size % model.vae_stride != 0)
        throw BundleError(reader.source() + ": model.img_size " + std::to_string(model.img_size) +
                          " is not a multiple of vae_stride " + std::to_string(model.vae_stride) + ".");
    if (model.grid() > kMostSide)
        throw BundleError(reader.source() + ": model.img_size " + std::to_string(model.img_size) + " gives " +
                          std::to_string(model.grid()) + " tokens a side; at most " + std::to_string(kMostSide) + " fit.");
    return made;
}

}  // namespace himar::core::hi_mar
