// Part of himar.hpp: what to generate, and the functions of the caller that a generation calls.
#ifndef HIMAR_CALLBACKS_HPP
#define HIMAR_CALLBACKS_HPP

#include <array>
#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "himar.h"
#include "view.hpp"

namespace himar {

// A finished autoregressive step; see himar_progress. Valid during the callback.
class Progress {
public:
    explicit Progress(const himar_progress& progress)
        : phase(progress.phase), step(progress.step), done(progress.done), total(progress.total),
          images(progress.images),
          low_latents(progress.low_latents, {progress.low_shape[0], progress.low_shape[1], progress.low_shape[2],
                                             progress.low_shape[3]}),
          progress_(&progress) {}

    himar_phase phase;
    std::int32_t step;
    std::int64_t done, total, images;
    View<float> low_latents;  // preview, (B, C, s, s)

    // The preview in pixels, uint8 (B, P, P, 3): decodes it. Error as himar_progress_preview says.
    View<std::uint8_t> preview() const {
        const std::uint8_t* pixels = nullptr;
        std::array<std::int64_t, 4> shape{};
        check(himar_progress_preview(progress_, &pixels, shape.data()));
        return {pixels, shape};
    }

private:
    const himar_progress* progress_;
};

// Draws in place of a seed; see himar_draws. What a function throws comes out of `generate`.
class Draws {
public:
    virtual ~Draws() = default;

    // Write a permutation of 0 … positions-1 for each image into order (B, positions), its end revealed first.
    virtual void order(himar_phase phase, const View<std::uint32_t>& images, std::int64_t positions,
                       std::int64_t* order) = 0;

    // Write standard normals into noise (B, r, C).
    virtual void noise(const himar_noise_request& request, float* noise) = 0;
};

// What to generate; what is not given is the sampling setting's. See himar_generate_params.
struct GenerateOptions {
    std::vector<std::int64_t> labels;
    std::uint64_t seed = 0;
    std::uint64_t first_index = 0;
    std::optional<std::string> sampling;
    std::optional<double> guidance, low_guidance, high_guidance, temperature;
    std::optional<std::int32_t> low_steps, high_steps, low_diffusion_steps, high_diffusion_steps;
    himar_guidance_schedule guidance_schedule = HIMAR_GUIDANCE_DEFAULT;
    himar_solver low_solver = HIMAR_SOLVER_DEFAULT, high_solver = HIMAR_SOLVER_DEFAULT;
    Draws* draws = nullptr;  // in place of the seed, which must stay 0; must live as long as the call
    std::function<bool(const Progress&)> on_step;  // false cancels; what it throws comes out of `generate`
};

// The options' functions as C calls them, for one call. Exceptions must not pass through C: they are kept.
class Callbacks {
public:
    explicit Callbacks(const GenerateOptions& options) : options_(&options) {}
    Callbacks(const Callbacks&) = delete;
    Callbacks& operator=(const Callbacks&) = delete;

    // Have `params` call them; valid while this object lives.
    void connect(himar_generate_params& params) {
        if (options_->on_step) {
            params.on_step = &Callbacks::on_step;
            params.user = this;
        }
        if (options_->draws != nullptr) params.draws = &draws_;
    }

    // Throw what one of them threw.
    void rethrow() const {
        if (thrown_) std::rethrow_exception(thrown_);
    }

private:
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
        auto* const self = static_cast<Callbacks*>(user);
        return self->kept([&] { return self->options_->on_step(Progress(*progress)); });
    }

    static int order(himar_phase phase, const std::uint32_t* images, std::int64_t batch, std::int64_t positions,
                     std::int64_t* order, void* user) {
        auto* const self = static_cast<Callbacks*>(user);
        return self->kept([&] {
            self->options_->draws->order(phase, {images, {batch, 1, 1, 1}}, positions, order);
            return true;
        });
    }

    static int noise(const himar_noise_request* request, float* noise, void* user) {
        auto* const self = static_cast<Callbacks*>(user);
        return self->kept([&] {
            self->options_->draws->noise(*request, noise);
            return true;
        });
    }

    const GenerateOptions* options_;
    std::exception_ptr thrown_;
    himar_draws draws_{sizeof(himar_draws), &Callbacks::order, &Callbacks::noise, this};
};

}  // namespace himar

#endif
