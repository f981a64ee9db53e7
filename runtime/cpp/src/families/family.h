// What the library needs of a model family. It knows none itself: a manifest's `model.family` names one of those that
// families/registry.cpp lists, and all else is in the family's folder.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "families/edit.h"
#include "himar/himar.h"
#include "philox.cuh"

namespace himar::core {

using Json = nlohmann::ordered_json;
class Bundle;
struct ComponentSpec;
struct Manifest;

// The component that turns tokens (prompts, K) into contexts (prompts, K, W); a bundle without it takes contexts alone.
constexpr const char* kTextEncoder = "text_encoder";
class JsonReader;
struct Networks;

// A file of the bundle as a part of the manifest names it.
struct HashedFile {
    std::string file, sha256;
};

// The settings of one generation, checked; which there are is the family's.
struct Settings {
    virtual ~Settings() = default;
};

// The label of an image that is of no class.
constexpr std::int64_t kNoClass = -1;

// What images of a model from text are made from; K and W are those of its contexts. Both null for a model of classes.
struct Texts {
    const std::int64_t* tokens = nullptr;  // (B, K) of prompts, for the text encoder
    const float* contexts = nullptr;       // (B, K, W), in place of tokens
};

// What to generate in one run of the engines: as many labels as images, at most the bundle's max_batch.
struct Chunk {
    std::vector<std::int64_t> labels;  // kNoClass of texts, and of an edit without classes
    std::vector<ImageOrigin> origins;  // of each label: what its numbers are drawn from
    const himar_draws* draws = nullptr;  // instead of those of the origins' seeds; indices count in them too
    const Edit* edit = nullptr;          // what is kept of as many images of one kind; null where whole ones are made
    Texts texts{};
};

// A finished autoregressive step, as callers are told of it.
struct StepInfo {
    std::size_t stage;       // index of the stage
    const char* stage_name;  // as long as the lane lives
    std::int64_t index;      // of the step within its stage
    std::int64_t steps;      // of the stage
};

// A preview's images, uint8 (B, side, side, 3), RGB; valid until the lane makes others or runs on.
struct PreviewPixels {
    const std::uint8_t* pixels;
    std::int64_t side;
};

// Engines, buffers and a family's loop: one chunk of a request at a time.
class Lane {
public:
    // Called after every autoregressive step with the chunk's preview latents, s and s their sides: (B, C, s, s); false
    // cancels.
    using ShouldContinue = std::function<bool(const StepInfo&, const float* preview)>;

    virtual ~Lane() = default;

    // Run a chunk; `latents`, `low_latents` and `codes` then hold its results, and `pixels` (B, H, W, 3) where it is given:
    // of an edit what was drawn, before the images are pasted over it.
    // Returns false when cancelled. EngineError when an engine fails or gives NaN: on the host after the step, on a GPU
    // at the end.
    //
    // On a GPU the host waits for nothing before the end without `should_continue`; with it, for the step before the one
    // it has just queued, so that the device always has work. Whoever leaves early leaves an idle device.
    virtual bool run(const Chunk& chunk, const Settings& settings, const ShouldContinue& should_continue,
                     std::uint8_t* pixels) = 0;

    // Decode the previews of `images` of the chunk's images from the `first` on, of the step that `should_continue` is told
    // of. InputError when there is no decoder or no preview, EngineError when the decoder takes no latents of this size or
    // fails.
    virtual PreviewPixels preview(std::int64_t first, std::int64_t images) = 0;

    // The same of the images as far as they are: the preview, or what a stage that works on whole images has made of them.
    virtual PreviewPixels so_far(std::int64_t first, std::int64_t images) = 0;

    // Of the last chunk. What the family does not have is empty.
    virtual const std::vector<float>& latents() const = 0;       // (B, C, h, w)
    virtual const std::vector<float>& low_latents() const = 0;   // (B, C, s, s) of a model with a low-resolution phase
    virtual const std::vector<std::int64_t>& codes() const = 0;  // (B, L) of a model that draws codes
    virtual bool has_decoder() const = 0;

    // Seconds that the engines ran since the lane was made; NaN where they are queued and nobody waits for them.
    virtual double engine_seconds() const = 0;

    // Another lane: shared weights, own buffers. Any thread may call it, also during `run`.
    virtual std::unique_ptr<Lane> clone() const = 0;
};

// What himar_pipeline_info says of a model; sizes are those of a side.
struct ModelFacts {
    std::int64_t classes, image_size, channels, latent_size;
    std::int64_t preview_size;     // 0 for a model without previews
    std::int64_t low_latent_size;  // 0 for a model without low-resolution latents
    std::int64_t codes;            // L of an image; 0 for a model that draws none
    std::int64_t context_length = 0, context_width = 0;  // K and W of a model from text, 0 for one of classes

    bool is_from_text() const { return context_length > 0; }
};

// A bundle's model as its manifest describes it; immutable, so threads share it.
class Model {
public:
    virtual ~Model() = default;

    virtual ModelFacts facts() const = 0;
    virtual std::vector<std::string> components() const = 0;  // that a lane needs, beside the decoder
    virtual std::vector<std::string> stages() const = 0;      // names in order
    virtual std::vector<std::string> deferred() const { return {}; }  // components loaded when a run first needs them
    virtual std::vector<std::string> first_needed(const Manifest&) const { return {}; }  // those of them that the default setting needs

    // Bytes of a lane's buffers on a GPU beside its engines, which hold max_batch images: those that requests of the default
    // setting need.
    virtual std::size_t resident_bytes(const Manifest& manifest) const = 0;

    // Read one of the manifest's sampling settings. BundleError, naming it, for a value out of range.
    virtual std::shared_ptr<const Settings> read_settings(const JsonReader& reader) const = 0;

    // A setting with the changes that a caller's parameters ask for, held against the model's sizes. InputError.
    virtual std::shared_ptr<const Settings> changed(const Settings& setting, const himar_generate_params& params) const = 0;

    // InputError for settings that need components which a bundle may have, where this one has not.
    virtual void check_components(const Settings&, const Manifest&) const {}

    // The same for an edit; shown: classes or texts are given, and without them there is no guidance. InputError for settings
    // that it cannot edit with.
    virtual std::shared_ptr<const Settings> changed_for_edit(const Settings& setting, const himar_generate_params& params,
                                                             bool shown) const = 0;

    virtual std::vector<std::string> editing() const = 0;        // components without which a bundle cannot edit
    virtual const char* editing_advice() const = 0;              // how to get them, the end of a sentence
    virtual void check_dilation(std::int64_t rings) const = 0;   // InputError where the family has no such option

    // Of each image of an edit a number: those of equal ones can run together.
    virtual std::vector<std::int64_t> edit_kinds(const Edit& edit) const {
        return std::vector<std::int64_t>(static_cast<std::size_t>(edit.count));
    }

    // InputError unless draws of the caller's have every function that a run with these settings calls.
    virtual void check_draws(const himar_draws& draws, const Settings& settings) const = 0;

    // Of one chunk; edit: of its images, which are of one kind, null where whole ones are made.
    virtual std::int64_t steps(const Settings& settings, const Edit* edit) const = 0;
    virtual Json to_json(const Settings& settings) const = 0;        // as recipes show them

    // A lane with a bundle's engines and whatever else of the bundle it needs: BundleError where that is not there. On a
    // GPU the buffers for max_batch images are allocated: EngineError when it has no room. On the host they grow with the
    // chunks: a service that draws one image at a time never pays for max_batch.
    virtual std::unique_ptr<Lane> make_lane(const Bundle& bundle, Networks networks) const = 0;

    std::string family;  // its name in the registry
};

// Read a manifest's `model`. BundleError for a family that this library does not have, and the family's own.
std::shared_ptr<const Model> read_model(const JsonReader& reader);

// The family of manifests that name none, and of recipes.
const char* first_family();

// InputError where `params` change settings of other families than the model's.
void refuse_other_settings(const Model& model, const himar_generate_params& params);

// The families' settings in `params`, as himar_generate_params_to_string shows them.
std::string described_settings(const himar_generate_params& params);

}  // namespace himar::core
