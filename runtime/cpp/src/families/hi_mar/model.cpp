#include "families/hi_mar/model.h"

#include <cmath>

#include "engines/networks.h"
#include "error.h"
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

class HiMar final : public Model {
public:
    explicit HiMar(const ModelInfo& info) : info_(info) {}

    const ModelInfo& info() const { return info_; }

    ModelFacts facts() const override {
        return {info_.classes, info_.img_size, info_.channels, info_.grid(), info_.cond_scale};
    }

    std::vector<std::string> components() const override {
        std::vector<std::string> names;
        for (const PhaseInfo& phase : info_.phases()) names.insert(names.end(), {phase.transformer, phase.head});
        return names;
    }

    std::vector<std::string> stages() const override {
        std::vector<std::string> names;
        for (const PhaseInfo& phase : info_.phases()) names.emplace_back(phase.name());
        return names;
    }

    std::shared_ptr<const Settings> read_settings(const JsonReader& reader) const override {
        return std::make_shared<const Sampling>(read_sampling(reader));
    }

    std::shared_ptr<const Settings> changed(const Settings& setting, const himar_generate_params& params) const override {
        Sampling sampling = of(setting);
        if (params.hi_mar != nullptr) change(sampling, *params.hi_mar, info_.single_scale());
        sampling.check_positions(info_.low_positions(), info_.high_positions());
        return std::make_shared<const Sampling>(std::move(sampling));
    }

    std::int64_t steps(const Settings& settings) const override {
        std::int64_t sum = 0;
        for (const PhaseInfo& phase : info_.phases()) sum += of(settings).phase(phase.is_low).steps;
        return sum;
    }

    Json to_json(const Settings& settings) const override { return of(settings).to_json(); }

    std::unique_ptr<Lane> make_lane(Networks networks, std::int64_t max_batch) const override {
        return std::make_unique<HiMarLane>(std::move(networks), info_, max_batch);
    }

private:
    static const Sampling& of(const Settings& settings) { return static_cast<const Sampling&>(settings); }

    ModelInfo info_;
};

}  // namespace

std::vector<PhaseInfo> ModelInfo::phases() const {
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

std::shared_ptr<Model> read_model(const JsonReader& reader) {
    ModelInfo model{};
    model.pivots = choice(reader, "pivots", {"none", "visual", "condition"}, Pivots::kCondition);
    model.low_head = choice(reader, "low_head", {"mlp", "dit"}, HeadKind::kMlp);
    model.high_head = choice(reader, "high_head", {"mlp", "dit"}, HeadKind::kDit);
    model.width = reader.positive("width", kMostWidth);
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
    return std::make_shared<HiMar>(model);
}

const ModelInfo& info_of(const Model& model) { return static_cast<const HiMar&>(model).info(); }

}  // namespace himar::core::hi_mar
