// himar for C++17: himar.h with destructors, exceptions and views. Header only; link the library himar::himar.
//
//     auto pipeline = himar::Pipeline::load("bundle");
//     himar::GenerateOptions options;
//     options.labels = {3, 7};
//     options.seed = 7;
//     himar::Result result = pipeline.generate(options);
//     himar::View<std::uint8_t> pixels = result.images();  // (B, H, W, 3), valid while `result` lives
//
// Units, layout and thread rules are those of himar.h.
#ifndef HIMAR_HIMAR_HPP
#define HIMAR_HIMAR_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "callbacks.hpp"
#include "himar.h"
#include "tokenizer.hpp"
#include "view.hpp"

namespace himar {

struct LoadOptions {
    std::string device = "cpu";          // "cpu", "cuda", "cuda:N"
    std::optional<std::string> backend;  // "onnxruntime" runs the bundle's ONNX graphs
    std::int32_t threads = 0;            // CPU threads of one run of an engine; 0: see himar_load_params
};

// How an edit draws; see himar_edit_params.
struct EditOptions {
    std::int64_t dilation = 0;  // of hi_mar, rings of cells around a mask's that are drawn too
    std::int64_t feather = 0;   // pixels inside a mask's border over which what is drawn is blended in
};

// The images of a request; views of it are valid while it lives.
class Result {
public:
    explicit Result(himar_result* handle, bool cancelled) : handle_(handle, himar_result_free), cancelled_(cancelled) {}

    bool cancelled() const noexcept { return cancelled_; }

    // uint8 (B, H, W, 3), RGB. Error when the bundle has no VAE decoder.
    View<std::uint8_t> images() const { return view<std::uint8_t>(himar_result_images); }
    View<float> latents() const { return view<float>(himar_result_latents); }          // (B, C, h, w)
    View<float> low_latents() const { return view<float>(himar_result_low_latents); }  // (B, C, s, s)

    // (B, L, 1, 1), scale after scale. Error for a model of another family than hmar.
    View<std::int64_t> codes() const {
        const std::int64_t* data = nullptr;
        std::int64_t shape[2];
        check(himar_result_codes(handle_.get(), &data, shape));
        return {data, {shape[0], shape[1], 1, 1}};
    }

    View<std::int64_t> labels() const {
        const std::int64_t* data = nullptr;
        std::size_t count = 0;
        check(himar_result_labels(handle_.get(), &data, &count));
        return {data, {static_cast<std::int64_t>(count), 1, 1, 1}};
    }

    // Places of the prompts that lost their end.
    std::vector<std::size_t> truncated() const {
        const std::size_t* places = nullptr;
        std::size_t count = 0;
        check(himar_result_truncated(handle_.get(), &places, &count));
        return {places, places + count};
    }

    // How an image was made, as JSON.
    std::string recipe(std::size_t index) const {
        const char* json = nullptr;
        check(himar_result_recipe(handle_.get(), index, &json));
        return json;
    }

    double seconds() const { return times().first; }
    double engine_seconds() const { return times().second; }  // NaN on a GPU

    // Of each stage in order, then of decoding; empty where no on_step was given.
    std::vector<double> stage_seconds() const {
        const double* seconds = nullptr;
        std::size_t count = 0;
        check(himar_result_stage_seconds(handle_.get(), &seconds, &count));
        return {seconds, seconds + count};
    }

    // The result of some of the images alone; its seconds are those of all.
    Result of(std::int64_t first, std::int64_t images_of_it) const {
        himar_result* part = nullptr;
        check(himar_result_part(handle_.get(), first, images_of_it, &part));
        return Result(part, cancelled_);
    }

    const himar_result* get() const noexcept { return handle_.get(); }

private:
    template <class T, class Accessor>
    View<T> view(Accessor accessor) const {
        const T* data = nullptr;
        std::array<std::int64_t, 4> shape{};
        check(accessor(handle_.get(), &data, shape.data()));
        return {data, shape};
    }

    std::pair<double, double> times() const {
        std::pair<double, double> found;
        check(himar_result_seconds(handle_.get(), &found.first, &found.second));
        return found;
    }

    std::unique_ptr<himar_result, himar_status (*)(himar_result*)> handle_;
    bool cancelled_;
};

// A bundle's engines. One per thread: `clone` shares the weights.
class Pipeline {
public:
    static Pipeline load(const std::string& path, const LoadOptions& options = {}) {
        const himar_load_params params = load_params(options);
        himar_pipeline* handle = nullptr;
        check(himar_pipeline_load(path.c_str(), &params, &handle));
        return Pipeline(handle);
    }

    // For a server: asks for the memory of `lanes` pipelines, this one and its clones, that run `batch` images at once, 0 for as
    // many as there is room for. Also gives how many were taken; see himar_pipeline_load_lanes.
    static std::pair<Pipeline, std::int64_t> load_lanes(const std::string& path, const LoadOptions& options,
                                                        std::int64_t lanes, std::int64_t batch = 0) {
        const himar_load_params params = load_params(options);
        himar_pipeline* handle = nullptr;
        std::int64_t taken = 0;
        check(himar_pipeline_load_lanes(path.c_str(), &params, lanes, batch, &taken, &handle));
        return {Pipeline(handle), taken};
    }

    Pipeline clone() const {
        himar_pipeline* handle = nullptr;
        check(himar_pipeline_clone(handle_.get(), &handle));
        return Pipeline(handle);
    }

    himar_pipeline_info info() const {
        himar_pipeline_info info{};
        info.struct_size = sizeof info;
        check(himar_pipeline_get_info(handle_.get(), &info));
        return info;
    }

    // The name of a class; nothing where the bundle names no classes. Error for a number that is not a class.
    std::optional<std::string> class_name(std::int64_t label) const {
        const char* name = nullptr;
        check(himar_pipeline_get_class_name(handle_.get(), label, &name));
        return name == nullptr ? std::nullopt : std::optional<std::string>(name);
    }

    // The class that a text names by its number, its name or a beginning of it. Error, which suggests names, for another.
    std::int64_t find_class(const std::string& text) const {
        if (text.find('\0') != std::string::npos)
            throw Error(HIMAR_ERROR_INPUT, "the class holds a NUL character, which no name has; leave it out.");
        std::int64_t label = 0;
        check(himar_pipeline_find_class(handle_.get(), text.c_str(), &label));
        return label;
    }

    // The settings that these options would run with, as JSON; requests with equal ones can run together. Any thread, any time.
    std::string settings(const GenerateOptions& options) const {
        const Call call(options, info());
        return whole_text([&](char* text, std::size_t capacity, std::size_t* needed) {
            return himar_pipeline_get_settings(handle_.get(), call.params(), text, capacity, needed);
        });
    }

    // Throws the Error that `generate` would throw for these options, and runs nothing. Any thread, any time.
    void check_options(const GenerateOptions& options) const {
        check(himar_pipeline_check(handle_.get(), Call(options, info()).params()));
    }

    // Throws Error, or what `options.on_step` or `options.draws` threw.
    Result generate(const GenerateOptions& options) {
        Call call(options, info());
        himar_result* handle = nullptr;
        const himar_status status = himar_pipeline_generate(handle_.get(), call.params(), &handle);
        return finished(call, status, handle);
    }

    // Draw anew the pixels of each image whose mask is not 0; see himar_pipeline_edit. images (B, H, W, 3), RGB; masks
    // (B, H, W, 1), or one for all; options.labels and options.prompts may be empty. Throws as `generate` does.
    Result edit(const View<std::uint8_t>& images, const View<std::uint8_t>& masks, const GenerateOptions& options,
                const EditOptions& how = {}) {
        Call call(options, info());
        const himar_edit_params edited = edit_params(images, masks, how);
        himar_result* handle = nullptr;
        const himar_status status = himar_pipeline_edit(handle_.get(), call.params(), &edited, &handle);
        return finished(call, status, handle);
    }

    // Throws the Error that `edit` would throw, and runs nothing. Any thread, any time.
    void check_edit(const View<std::uint8_t>& images, const View<std::uint8_t>& masks, const GenerateOptions& options,
                    const EditOptions& how = {}) const {
        const himar_edit_params edited = edit_params(images, masks, how);
        check(himar_pipeline_check_edit(handle_.get(), Call(options, info()).params(), &edited));
    }

    // The settings that such an edit would run with, as JSON; edits with equal ones can run together. Any thread, any time.
    std::string edit_settings(const View<std::uint8_t>& images, const View<std::uint8_t>& masks,
                              const GenerateOptions& options, const EditOptions& how = {}) const {
        const Call call(options, info());
        const himar_edit_params edited = edit_params(images, masks, how);
        return whole_text([&](char* text, std::size_t capacity, std::size_t* needed) {
            return himar_pipeline_get_edit_settings(handle_.get(), call.params(), &edited, text, capacity, needed);
        });
    }

    himar_pipeline* get() const noexcept { return handle_.get(); }

private:
    // Valid while `options` live.
    static himar_load_params load_params(const LoadOptions& options) {
        himar_load_params params;
        check(himar_load_params_init(&params));
        params.device = options.device.c_str();
        params.backend = options.backend ? options.backend->c_str() : nullptr;
        params.threads = options.threads;
        return params;
    }

    explicit Pipeline(himar_pipeline* handle) : handle_(handle, himar_pipeline_free) {}

    static Result finished(const Call& call, himar_status status, himar_result* handle) {
        Result result(handle, status == HIMAR_CANCELLED);
        call.rethrow();
        check(status);
        return result;
    }

    // What a function of the C interface writes: write(text, capacity, needed).
    template <class Write>
    static std::string whole_text(const Write& write) {
        std::size_t needed = 0;
        check(write(nullptr, std::size_t{0}, &needed));
        std::string text(needed, '\0');
        check(write(text.data(), text.size(), nullptr));
        text.pop_back();  // the NUL
        return text;
    }

    static himar_edit_params edit_params(const View<std::uint8_t>& images, const View<std::uint8_t>& masks,
                                         const EditOptions& how) {
        himar_edit_params edited;
        check(himar_edit_params_init(&edited));
        edited.images = images.data();
        std::copy(images.shape().begin(), images.shape().end(), edited.image_shape);
        if (masks.shape()[3] != 1)
            throw Error(HIMAR_ERROR_INPUT, "masks have " + std::to_string(masks.shape()[3]) +
                                               " values per pixel; give one, (B, H, W, 1).");
        edited.masks = masks.data();
        std::copy(masks.shape().begin(), masks.shape().begin() + 3, edited.mask_shape);
        edited.dilation = how.dilation;
        edited.feather = how.feather;
        return edited;
    }

    std::unique_ptr<himar_pipeline, himar_status (*)(himar_pipeline*)> handle_;
};

}  // namespace himar

#endif
