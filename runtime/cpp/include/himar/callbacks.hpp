// Part of himar.hpp: what to generate, and the functions of the caller that a generation calls.
#ifndef HIMAR_CALLBACKS_HPP
#define HIMAR_CALLBACKS_HPP

#include <array>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "himar.h"
#include "settings.hpp"
#include "view.hpp"

namespace himar {

// A finished autoregressive step; see himar_progress. Valid during the callback.
class Progress {
public:
    explicit Progress(const himar_progress& progress)
        : stage(progress.stage), step(progress.step), stage_name(progress.stage_name), done(progress.done),
          total(progress.total), images(progress.images), stage_steps(progress.stage_steps),
          preview_latents(progress.preview_latents, {progress.preview_shape[0], progress.preview_shape[1],
                                                     progress.preview_shape[2], progress.preview_shape[3]}),
          progress_(&progress) {}

    std::int32_t stage, step;
    std::string stage_name;
    std::int64_t done, total, images, stage_steps;
    View<float> preview_latents;  // (B, C, s, s)

    // The preview in pixels, uint8 (B, P, P, 3): decodes it. Throws Error as described at himar_progress_preview.
    View<std::uint8_t> preview() const { return decoded(himar_progress_preview); }

    // The images as far as they are, uint8 (B, P, P, 3): the preview in stage "low", then in full size. Decodes them.
    // Throws Error as described at himar_progress_so_far.
    View<std::uint8_t> so_far() const { return decoded(himar_progress_so_far); }

    // The same step of some of these images alone: their previews decode no others.
    Progress of(std::int64_t first, std::int64_t images_of_it) const {
        auto part = std::make_shared<himar_progress>();
        part->struct_size = sizeof *part;
        check(himar_progress_part(progress_, first, images_of_it, part.get()));
        Progress made(*part);
        made.part_ = std::move(part);
        return made;
    }

private:
    template <class Decode>
    View<std::uint8_t> decoded(Decode decode) const {
        const std::uint8_t* pixels = nullptr;
        std::array<std::int64_t, 4> shape{};
        check(decode(progress_, &pixels, shape.data()));
        return {pixels, shape};
    }

    const himar_progress* progress_;
    std::shared_ptr<const himar_progress> part_;  // what progress_ points to where this is a part
};

// Draws instead of a seed's; see himar_draws. A model of hi_mar asks for orders and noise, one of hmar for uniforms, and for
// Gumbel noise of a smooth preview. Exceptions thrown here propagate out of `generate`.
class Draws {
public:
    virtual ~Draws() = default;

    // Write a permutation of 0 … positions-1 for each image into order (B, positions), its end revealed first.
    virtual void order(const himar_order_request&, std::int64_t*) { refuse("orders"); }

    // Write standard normals into noise (B, r, C).
    virtual void noise(const himar_noise_request&, float*) { refuse("noise"); }

    // Write numbers in [0, 1) into uniforms (B, T).
    virtual void uniforms(const himar_code_request&, float*) { refuse("uniforms"); }

    // Write standard Gumbel noise into gumbel (B, T, V).
    virtual void gumbel(const himar_code_request&, float*) { refuse("Gumbel noise"); }

private:
    [[noreturn]] static void refuse(const char* what) {
        throw Error(HIMAR_ERROR_INPUT, std::string("these draws have no ") + what + ", which the model asks for.");
    }
};

// What to generate; see himar_generate_params. The settings are those of both families: `guidance` is of either, and a
// model refuses what only the other has.
struct GenerateOptions : HiMarSettings, HmarSettings {
    std::vector<std::int64_t> labels;
    std::vector<std::string> prompts;  // of a model from text, in place of labels
    std::vector<float> contexts;       // (B, K, W), in place of prompts
    std::uint64_t seed = 0;
    std::uint64_t first_index = 0;
    std::vector<std::uint64_t> seeds;    // one per image in place of the seed; see himar_generate_params
    std::vector<std::uint32_t> indices;  // one per image in place of first_index
    std::optional<std::string> sampling;
    Draws* draws = nullptr;  // instead of the seed's, which must stay 0; must outlive the call
    std::function<bool(const Progress&)> on_step;  // false cancels; its exceptions propagate out of `generate`
};

// Prompts as C takes them, valid while they live. Error for one with a NUL character, which would end it there.
inline std::vector<const char*> c_prompts(const std::vector<std::string>& prompts) {
    std::vector<const char*> pointers;
    for (const std::string& prompt : prompts) {
        if (prompt.find('\0') != std::string::npos)
            throw Error(HIMAR_ERROR_INPUT, "prompt " + std::to_string(pointers.size()) +
                                               " holds a NUL character, which ends a text in C; leave it out.");
        pointers.push_back(prompt.c_str());
    }
    return pointers;
}

// Options as C takes them, for one call; valid while the options live. Exceptions must not pass through C: they are kept.
class Call {
public:
    // info: of the model, whose family takes the guidance.
    Call(const GenerateOptions& options, const himar_pipeline_info& info)
        : options_(&options), prompts_(c_prompts(options.prompts)), is_hmar_(std::string(info.family) == "hmar"),
          hi_mar_(is_hmar_ ? options.without_guidance() : options.HiMarSettings::to_c()),
          hmar_(options.HmarSettings::to_c(is_hmar_ ? options.guidance : std::nullopt)) {
        check(himar_generate_params_init(&params_));
        params_.labels = options.labels.empty() ? nullptr : options.labels.data();
        params_.label_count = options.labels.size();
        params_.prompts = prompts_.empty() ? nullptr : prompts_.data();
        params_.prompt_count = prompts_.size();
        params_.contexts = options.contexts.empty() ? nullptr : options.contexts.data();
        params_.context_count = count_contexts(options.contexts.size(), info);
        params_.seed = options.seed;
        params_.first_index = options.first_index;
        if (!options.seeds.empty()) params_.seeds = options.seeds.data();
        params_.seed_count = options.seeds.size();
        if (!options.indices.empty()) params_.indices = options.indices.data();
        params_.index_count = options.indices.size();
        params_.sampling = options.sampling ? options.sampling->c_str() : nullptr;
        params_.hi_mar = &hi_mar_;
        params_.hmar = &hmar_;
        params_.on_step = options.on_step ? &Call::on_step : nullptr;
        params_.user = this;
        params_.draws = options.draws != nullptr ? &draws_ : nullptr;
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    const himar_generate_params* params() const { return &params_; }

    // Throw what one of the functions threw.
    void rethrow() const {
        if (thrown_) std::rethrow_exception(thrown_);
    }

private:
    // How many contexts so many numbers are; a model of classes refuses any.
    static std::size_t count_contexts(std::size_t numbers, const himar_pipeline_info& info) {
        const auto one = static_cast<std::size_t>(info.context_length * info.context_width);
        if (one == 0) return numbers == 0 ? 0 : 1;
        if (numbers % one != 0)
            throw Error(HIMAR_ERROR_INPUT, "contexts holds " + std::to_string(numbers) + " numbers; give float32 (images, " +
                                               std::to_string(info.context_length) + ", " +
                                               std::to_string(info.context_width) +
                                               "), the last hidden state of the model's text tower.");
        return numbers / one;
    }

    // 0, which cancels or refuses, when `body` throws.
    template <class Body>
    int kept(Body body) noexcept {
        try {
            return body() ? 1 : 0;
        } catch (...) {
            thrown_ = std::current_exception();
            return 0;
        }
    }

    static int on_step(const himar_progress* progress, void* user) {
        auto* const self = static_cast<Call*>(user);
        return self->kept([&] { return self->options_->on_step(Progress(*progress)); });
    }

    static int order(const himar_order_request* request, std::int64_t* order, void* user) {
        auto* const self = static_cast<Call*>(user);
        return self->kept([&] {
            self->options_->draws->order(*request, order);
            return true;
        });
    }

    static int noise(const himar_noise_request* request, float* noise, void* user) {
        auto* const self = static_cast<Call*>(user);
        return self->kept([&] {
            self->options_->draws->noise(*request, noise);
            return true;
        });
    }

    static int uniforms(const himar_code_request* request, float* uniforms, void* user) {
        auto* const self = static_cast<Call*>(user);
        return self->kept([&] {
            self->options_->draws->uniforms(*request, uniforms);
            return true;
        });
    }

    static int gumbel(const himar_code_request* request, float* gumbel, void* user) {
        auto* const self = static_cast<Call*>(user);
        return self->kept([&] {
            self->options_->draws->gumbel(*request, gumbel);
            return true;
        });
    }

    const GenerateOptions* options_;
    std::vector<const char*> prompts_;
    bool is_hmar_;
    himar_hi_mar_settings hi_mar_;
    himar_hmar_settings hmar_;
    himar_generate_params params_;
    std::exception_ptr thrown_;
    himar_draws draws_{sizeof(himar_draws), &Call::order, &Call::noise, this, &Call::uniforms, &Call::gumbel};
};

}  // namespace himar

#endif
