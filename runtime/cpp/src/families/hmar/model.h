// A model's sizes, and the components that follow from them (himar_kernels/families/hmar/sizes.py).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bundle/manifest.h"
#include "families/family.h"
#include "families/hmar/scales.h"

namespace himar::core::hmar {

constexpr const char *kConditions = "conditions", *kTrunk = "trunk", *kNextScaleTail = "next_scale_tail",
                     *kMaskedTail = "masked_tail", *kVarTrunk = "var_trunk", *kVarTail = "var_tail";

// Sizes as in the model's configuration (docs/hmar-model.md §1).
struct HmarModel final : Model {
    Scales scales;
    std::int64_t width = 0, depth = 0, heads = 0, tail = 0, classes = 0, vocab = 0, latent_channels = 0, vae_stride = 1;
    bool masked = true;  // false where there is the next-scale network alone

    // Of the tokenizer: E (V, Cv), and Φ's convolutions (4, Cv, Cv, 3, 3) and biases (4, Cv).
    ArrayEntry embedding, weights, biases;

    std::int64_t base() const { return depth - tail; }  // blocks that both networks share
    std::int64_t image_side() const { return scales.side() * vae_stride; }

    ModelFacts facts() const override {
        return {classes, image_side(), latent_channels, scales.side(), scales.side(), 0, scales.tokens()};
    }
    std::vector<std::string> components() const override;
    std::vector<std::string> deferred() const override { return {kVarTrunk, kVarTail, kEncoder}; }
    std::vector<std::string> first_needed(const Manifest& manifest) const override;
    std::size_t resident_bytes(const Manifest& manifest) const override;
    std::vector<std::string> stages() const override;
    std::shared_ptr<const Settings> read_settings(const JsonReader& reader) const override;
    std::shared_ptr<const Settings> changed(const Settings& setting, const himar_generate_params& params) const override;
    std::shared_ptr<const Settings> changed_for_edit(const Settings& setting, const himar_generate_params& params,
                                                     bool shown) const override;
    std::vector<std::string> editing() const override { return {kEncoder}; }
    const char* editing_advice() const override { return "build the bundle again with this version of himar"; }
    void check_dilation(std::int64_t rings) const override;
    void check_draws(const himar_draws& draws, const Settings& settings) const override;
    std::int64_t steps(const Settings&, const Edit*) const override { return static_cast<std::int64_t>(scales.count()); }
    Json to_json(const Settings& settings) const override;
    std::unique_ptr<Lane> make_lane(const Bundle& bundle, Networks networks) const override;
};

// Read a manifest's `model` of this family; BundleError for a value out of range.
std::shared_ptr<Model> read_model(const JsonReader& reader);

// The settings in `params` as text, " guidance=1.5 …": "setting" where the sampling setting's are kept; "" without any.
std::string described(const himar_generate_params& params);

// The names of the settings that `params` change.
std::vector<std::string> changes(const himar_generate_params& params);

}  // namespace himar::core::hmar
