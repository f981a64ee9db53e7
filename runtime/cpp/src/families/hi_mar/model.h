// A model's sizes and its phases as data: which components run each, over which positions, and what they leave.
//
// The counterpart of himar_kernels/families/hi_mar/phases.py. The released models have two phases: low reveals S positions
// with an MLP head and leaves pivots, high reveals N with a DiT head. Variants have other heads, pivots that are the low
// tokens themselves, or phase high alone.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "families/family.h"

namespace himar::core::hi_mar {

enum class Pivots { kNone, kVisual, kCondition };
enum class HeadKind { kMlp, kDit };  // samples the revealed positions one by one; denoises all around the known ones

struct PhaseInfo {
    bool is_low;                    // else it is high
    std::string transformer, head;  // names of its components
    HeadKind kind;                  // of its head
    std::int64_t side, always;      // of its grid; positions before its own that every step knows: phase high's pivots
    const char* tokens;             // the transformer's input of the phase's tokens (R, n, C)
    bool leaves_pivots;             // its transformer gives pivots (R, n, D); rows that a step reveals are kept
    std::int64_t pivot_width;       // of the transformer's input `pivots`, 0 where it has none

    // Of a DiT head, names of the two components that it comes in besides for held modulations, where a bundle has them: one
    // makes the modulations, the other takes them.
    std::string modulations() const { return head + "_modulations"; }
    std::string held() const { return head + "_held"; }

    std::int64_t positions() const { return side * side; }  // n
    const char* name() const { return is_low ? "low" : "high"; }
    unsigned code() const { return is_low ? 0 : 1; }  // as the kernels count phases
};

// The sizes that the loop needs; names as in the model's configuration. With pivots "none" there is a single scale:
// cond_scale is 0, and low_head says nothing.
struct HiMarModel final : Model {
    std::int64_t width = 0, classes = 0, buffer = 0, cond_scale = 0, img_size = 0, vae_stride = 1, channels = 0;
    double vae_scale = 1;
    Pivots pivots = Pivots::kCondition;
    HeadKind low_head = HeadKind::kMlp, high_head = HeadKind::kDit;
    std::int64_t context_width = 0;  // W of a model from text, which has no classes; 0 for one of classes
    HashedFile empty_context{};      // of the empty prompt, (K, W), K of `buffer`

    bool is_from_text() const { return context_width > 0; }
    std::int64_t context_size() const { return buffer * context_width; }    // K·W; 0 for a model of classes
    std::int64_t grid() const { return img_size / vae_stride; }             // side of the latents
    std::int64_t low_positions() const { return cond_scale * cond_scale; }  // S
    std::int64_t high_positions() const { return grid() * grid(); }         // N
    std::int64_t positions() const { return low_positions() + high_positions(); }
    bool single_scale() const { return pivots == Pivots::kNone; }

    // Whether edits run phase high by kEditTransformer where low positions are known. Visual pivots known positions have too,
    // and a single scale has none.
    bool has_edit_transformer() const { return pivots == Pivots::kCondition; }

    std::vector<PhaseInfo> phases() const;  // in order; a single scale has phase high alone

    ModelFacts facts() const override;
    std::vector<std::string> components() const override;
    std::vector<std::string> stages() const override;
    std::vector<std::string> deferred() const override;
    std::vector<std::string> first_needed(const Manifest& manifest) const override;
    std::size_t resident_bytes(const Manifest& manifest) const override;
    std::shared_ptr<const Settings> read_settings(const JsonReader& reader) const override;
    std::shared_ptr<const Settings> changed(const Settings& setting, const himar_generate_params& params) const override;
    std::shared_ptr<const Settings> changed_for_edit(const Settings& setting, const himar_generate_params& params,
                                                     bool shown) const override;
    std::vector<std::string> editing() const override;
    const char* editing_advice() const override { return "build it again with --editing"; }
    void check_dilation(std::int64_t) const override {}
    std::vector<std::int64_t> edit_kinds(const Edit& edit) const override;
    std::int64_t steps(const Settings& settings, const Edit* edit) const override;
    Json to_json(const Settings& settings) const override;
    void check_components(const Settings& settings, const Manifest& manifest) const override;
    void check_draws(const himar_draws& draws, const Settings& settings) const override;
    std::unique_ptr<Lane> make_lane(const Bundle& bundle, Networks networks) const override;
};

// Width of the condition that a head takes; BundleError when it has none of a fixed width.
std::int64_t condition_width(const ComponentSpec& head);

// Read a manifest's `model` of this family; BundleError for a value out of range, or of a later version.
std::shared_ptr<Model> read_model(const JsonReader& reader);

// The settings in `params` as text, " low_steps=3 …": "setting" where the sampling setting's are kept. Empty where there
// are those of another family alone.
std::string described(const himar_generate_params& params);

// The names of the settings that `params` change.
std::vector<std::string> changes(const himar_generate_params& params);

}  // namespace himar::core::hi_mar
