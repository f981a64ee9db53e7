// The C interface: handles, the border to exceptions, accessors.
#include <algorithm>
#include <cstddef>
#include <cstring>

#include "api/c_guard.h"
#include "api/class_names.h"
#include "api/pipeline.h"
#include "bundle/json_reader.h"
#include "engines/ort/engine.h"
#include "engines/tensorrt/engine.h"
#include "queue/cuda/program.h"
#include "text.h"

struct himar_pipeline {
    std::unique_ptr<himar::core::Pipeline> core;
    std::string sampling_names, stage_names;
};

struct himar_result {
    himar::core::Result core;
};

namespace himar::core {
namespace {

constexpr std::int64_t kMostLanes = 65536;

thread_local std::string last_error;
thread_local bool error_is_lost = false;  // there was no memory to keep the sentence

const Result& core_of(const himar_result* result) { return given(result, "result").core; }

void write_shape(std::int64_t* shape, std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) {
    std::int64_t* const to = &given(shape, "shape");
    to[0] = a, to[1] = b, to[2] = c, to[3] = d;
}

himar_status give_latents(const Result& core, const std::vector<float>& values, std::int64_t side, const float** latents,
                          std::int64_t* shape) {
    const float*& out = given(latents, "latents");
    write_shape(shape, static_cast<std::int64_t>(core.labels.size()), core.model.channels, side, side);
    out = values.data();
    return HIMAR_OK;
}

StepPixels& pixels_of(const himar_progress& step) {
    return given(static_cast<StepPixels*>(step.internal), "progress.internal");
}

himar_status give_step_pixels(const himar_progress* progress, StepPixels::Decode StepPixels::*which,
                              const std::uint8_t** pixels, std::int64_t* shape) {
    const himar_progress& step = given(progress, "progress");
    const std::uint8_t*& out = given(pixels, "pixels");
    given(shape, "shape");
    const StepPixels& found = pixels_of(step);
    const PreviewPixels made = (found.*which)(found.first, step.images);
    write_shape(shape, step.images, made.side, made.side, 3);
    out = made.pixels;
    return HIMAR_OK;
}

// InputError unless there are `images` of so many from the `first` on.
void check_part(std::int64_t first, std::int64_t images, std::int64_t all) {
    if (first < 0 || images < 1 || first > all || images > all - first)
        throw InputError("a part of " + std::to_string(images) + " images from number " + std::to_string(first) +
                         " on is asked for; there are " + std::to_string(all) + ".");
}

std::string build_info() {
    std::vector<std::string> missing;
    if (cuda::compiled_kernels().empty()) missing.emplace_back("CUDA kernels");
    if (!has_tensorrt()) missing.emplace_back("tensorrt");
    return "himar " HIMAR_VERSION_TEXT "; engines: onnxruntime " + ort_version() + (ort_has_cuda() ? " (cpu, cuda)" : " (cpu)") +
           (has_tensorrt() ? ", tensorrt " + tensorrt_headers_version() : "") +
           (missing.empty() ? "" : "; not compiled in: " + joined(missing));
}

void refuse_no_classes(std::int64_t classes) {
    if (classes == 0)
        throw InputError("this bundle's model makes images from text, so there are no classes; give prompts, or contexts.");
}

std::unique_ptr<himar_pipeline> handle_of(std::unique_ptr<Pipeline> core) {
    auto handle = std::make_unique<himar_pipeline>();
    std::vector<std::string> names;
    for (const auto& [name, setting] : core->bundle().manifest().sampling) names.push_back(name);
    handle->sampling_names = joined(names);
    handle->stage_names = joined(core->bundle().manifest().model->stages());
    handle->core = std::move(core);
    return handle;
}

// Run a request that has been read; its caller's functions are those of `params`.
himar_status run(Pipeline& core, const Request& request, const himar_generate_params& params, himar_result*& out) {
    OnStep on_step;
    if (params.on_step != nullptr)
        on_step = [on_step = params.on_step, user = params.user](const himar_progress& step) { return on_step(&step, user) != 0; };
    auto made = std::make_unique<himar_result>();
    made->core = core.generate(request, on_step);
    out = made.release();
    return out->core.cancelled ? HIMAR_CANCELLED : HIMAR_OK;
}

}  // namespace

void keep_error(const char* sentence) noexcept {
    try {
        last_error = sentence;
        error_is_lost = false;
    } catch (...) {
        error_is_lost = true;
    }
}

}  // namespace himar::core

using namespace himar::core;

const char* himar_status_to_string(himar_status status) {
    switch (status) {
        case HIMAR_OK: return "HIMAR_OK";
        case HIMAR_CANCELLED: return "HIMAR_CANCELLED";
        case HIMAR_ERROR_INPUT: return "HIMAR_ERROR_INPUT";
        case HIMAR_ERROR_BUNDLE: return "HIMAR_ERROR_BUNDLE";
        case HIMAR_ERROR_ENGINE: return "HIMAR_ERROR_ENGINE";
        case HIMAR_ERROR_MEMORY: return "HIMAR_ERROR_MEMORY";
        case HIMAR_ERROR_INTERNAL: return "HIMAR_ERROR_INTERNAL";
    }
    return "unknown status";
}

const char* himar_last_error(void) { return error_is_lost ? "no memory is left." : last_error.c_str(); }

const char* himar_version(void) { return HIMAR_VERSION_TEXT; }

int32_t himar_interface_version(void) { return HIMAR_INTERFACE_VERSION; }

const char* himar_build_info(void) {
    try {
        static const std::string info = build_info();
        return info.c_str();
    } catch (...) {
        return "himar " HIMAR_VERSION_TEXT;
    }
}

himar_status himar_pipeline_load(const char* path, const himar_load_params* params, himar_pipeline** pipeline) {
    return guarded([&] {
        given(path, "path");
        himar_pipeline*& out = given(pipeline, "pipeline");
        out = handle_of(Pipeline::load(path, read_load(params))).release();
        return HIMAR_OK;
    });
}

himar_status himar_pipeline_load_lanes(const char* path, const himar_load_params* params, int64_t lanes, int64_t batch,
                                       int64_t* taken, himar_pipeline** pipeline) {
    return guarded([&] {
        given(path, "path");
        std::int64_t& most = given(taken, "taken");
        himar_pipeline*& out = given(pipeline, "pipeline");
        if (lanes < 1 || lanes > kMostLanes)
            throw InputError("lanes is " + std::to_string(lanes) + "; it must be 1 to " + std::to_string(kMostLanes) + ".");
        if (batch < 0)
            throw InputError("batch is " + std::to_string(batch) +
                             "; it must be a number of images, or 0 for the largest for which there is room.");
        auto loaded = Pipeline::load(path, read_load(params), Load{lanes, batch});
        most = loaded->batch();
        out = handle_of(std::move(loaded)).release();
        return HIMAR_OK;
    });
}

himar_status himar_pipeline_clone(const himar_pipeline* pipeline, himar_pipeline** clone) {
    return guarded([&] {
        himar_pipeline*& out = given(clone, "clone");
        out = handle_of(given(pipeline, "pipeline").core->clone()).release();
        return HIMAR_OK;
    });
}

himar_status himar_pipeline_free(himar_pipeline* pipeline) {
    return guarded([&] {
        if (pipeline != nullptr && pipeline->core->generates_here())
            throw InputError("himar_pipeline_free was called from the pipeline's own step callback; return 0 from it to "
                             "cancel, and free the pipeline after himar_pipeline_generate.");
        delete pipeline;
        return HIMAR_OK;
    });
}

himar_status himar_pipeline_get_info(const himar_pipeline* pipeline, himar_pipeline_info* info) {
    return guarded([&] {
        const himar_pipeline& handle = given(pipeline, "pipeline");
        const std::size_t size = given(info, "info").struct_size;
        if (size != sizeof *info && size != offsetof(himar_pipeline_info, context_length) &&
            size != offsetof(himar_pipeline_info, family))  // as interface 1 had it
            throw InputError("himar_pipeline_info.struct_size is " + std::to_string(size) + "; it must be " +
                             std::to_string(sizeof *info) + ": set it to sizeof(himar_pipeline_info).");
        const Bundle& bundle = handle.core->bundle();
        const Manifest& manifest = bundle.manifest();
        const ModelFacts facts = manifest.model->facts();
        himar_pipeline_info out{};
        out.classes = facts.classes;
        out.image_size = facts.image_size;
        out.channels = facts.channels;
        out.latent_size = facts.latent_size;
        out.low_latent_size = facts.low_latent_size;
        out.max_batch = manifest.max_batch;
        out.has_decoder = manifest.components.count("vae_decoder") == 1 ? 1 : 0;
        out.bundle_id = bundle.id().c_str();
        out.sampling = handle.sampling_names.c_str();
        out.family = manifest.model->family.c_str();
        out.stages = handle.stage_names.c_str();
        out.context_length = facts.context_length;
        out.context_width = facts.context_width;
        out.takes_prompts = facts.is_from_text() && manifest.components.count(kTextEncoder) == 1 ? 1 : 0;
        out.struct_size = size;
        std::memcpy(static_cast<void*>(info), &out, size);
        return HIMAR_OK;
    });
}

himar_status himar_pipeline_get_class_name(const himar_pipeline* pipeline, int64_t label, const char** name) {
    return guarded([&] {
        const Manifest& manifest = given(pipeline, "pipeline").core->bundle().manifest();
        const char*& out = given(name, "name");
        const std::int64_t classes = manifest.model->facts().classes;
        refuse_no_classes(classes);
        if (label < 0 || label >= classes)
            throw InputError("label is " + std::to_string(label) + "; classes are the whole numbers 0 to " +
                             std::to_string(classes - 1) + ".");
        out = manifest.class_names.empty() ? nullptr : manifest.class_names[static_cast<std::size_t>(label)].c_str();
        return HIMAR_OK;
    });
}

himar_status himar_pipeline_find_class(const himar_pipeline* pipeline, const char* text, int64_t* label) {
    return guarded([&] {
        const Manifest& manifest = given(pipeline, "pipeline").core->bundle().manifest();
        given(text, "text");
        std::int64_t& out = given(label, "label");
        const std::int64_t classes = manifest.model->facts().classes;
        refuse_no_classes(classes);
        out = named_class(text, classes, manifest.class_names);
        return HIMAR_OK;
    });
}

himar_status himar_pipeline_check(const himar_pipeline* pipeline, const himar_generate_params* params) {
    return guarded([&] {
        const Pipeline& core = *given(pipeline, "pipeline").core;
        read_request(given(params, "params"), core.bundle().manifest(), core.prompts());
        return HIMAR_OK;
    });
}

himar_status himar_pipeline_generate(himar_pipeline* pipeline, const himar_generate_params* params,
                                     himar_result** result) {
    return guarded([&] {
        Pipeline& core = *given(pipeline, "pipeline").core;
        given(params, "params");
        himar_result*& out = given(result, "result");
        return run(core, read_request(*params, core.bundle().manifest(), core.prompts()), *params, out);
    });
}

himar_status himar_pipeline_check_edit(const himar_pipeline* pipeline, const himar_generate_params* params,
                                       const himar_edit_params* edit) {
    return guarded([&] {
        Pipeline& core = *given(pipeline, "pipeline").core;
        read_edit(given(params, "params"), given(edit, "edit"), core.bundle(), core.prompts());
        return HIMAR_OK;
    });
}

himar_status himar_pipeline_edit(himar_pipeline* pipeline, const himar_generate_params* params,
                                 const himar_edit_params* edit, himar_result** result) {
    return guarded([&] {
        Pipeline& core = *given(pipeline, "pipeline").core;
        given(params, "params");
        given(edit, "edit");
        himar_result*& out = given(result, "result");
        return run(core, read_edit(*params, *edit, core.bundle(), core.prompts()), *params, out);
    });
}

himar_status himar_progress_preview(const himar_progress* progress, const uint8_t** pixels, int64_t shape[4]) {
    return guarded([&] { return give_step_pixels(progress, &StepPixels::preview, pixels, shape); });
}

himar_status himar_progress_so_far(const himar_progress* progress, const uint8_t** pixels, int64_t shape[4]) {
    return guarded([&] { return give_step_pixels(progress, &StepPixels::so_far, pixels, shape); });
}

himar_status himar_progress_part(const himar_progress* progress, int64_t first, int64_t images, himar_progress* part) {
    return guarded([&] {
        const himar_progress& step = given(progress, "progress");
        checked(given(part, "part"), "himar_progress", "set it to sizeof(himar_progress)");
        check_part(first, images, step.images);
        himar_progress made = step;
        made.images = made.preview_shape[0] = images;
        const std::int64_t one = step.preview_shape[1] * step.preview_shape[2] * step.preview_shape[3];
        if (step.preview_latents != nullptr) made.preview_latents = step.preview_latents + first * one;
        StepPixels& whole = pixels_of(step);
        whole.parts.push_back({whole.preview, whole.so_far, whole.first + first, {}});
        made.internal = &whole.parts.back();
        *part = made;
        return HIMAR_OK;
    });
}

himar_status himar_result_part(const himar_result* result, int64_t first, int64_t images, himar_result** part) {
    return guarded([&] {
        const Result& core = core_of(result);
        himar_result*& out = given(part, "part");
        check_part(first, images, static_cast<std::int64_t>(core.labels.size()));
        auto made = std::make_unique<himar_result>();
        made->core = core.part(static_cast<std::size_t>(first), static_cast<std::size_t>(images));
        out = made.release();
        return HIMAR_OK;
    });
}

himar_status himar_pipeline_get_settings(const himar_pipeline* pipeline, const himar_generate_params* params, char* text,
                                         size_t capacity, size_t* needed) {
    return guarded([&] {
        const Manifest& manifest = given(pipeline, "pipeline").core->bundle().manifest();
        const std::shared_ptr<const Settings> settings = read_settings(given(params, "params"), manifest);
        return write_text(manifest.model->to_json(*settings).dump(), text, capacity, needed);
    });
}

himar_status himar_pipeline_get_edit_settings(const himar_pipeline* pipeline, const himar_generate_params* params,
                                              const himar_edit_params* edit, char* text, size_t capacity, size_t* needed) {
    return guarded([&] {
        Pipeline& core = *given(pipeline, "pipeline").core;
        const Request request = read_edit(given(params, "params"), given(edit, "edit"), core.bundle(), core.prompts());
        const Model& model = *core.bundle().manifest().model;
        Json settings = model.to_json(*request.settings), kinds = Json::array();
        for (const std::int64_t kind : model.edit_kinds(*request.edit))
            if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
        const char* const shows = !request.texts.prompts.empty() ? "text" : request.labels.front() != kNoClass ? "class" : "nothing";
        settings["edit"] = {{"dilation", request.edit->dilation}, {"feather", request.edit->feather}, {"shows", shows},
                            {"kinds", kinds}};
        return write_text(settings.dump(), text, capacity, needed);
    });
}

himar_status himar_result_free(himar_result* result) {
    delete result;
    return HIMAR_OK;
}

himar_status himar_result_images(const himar_result* result, const uint8_t** pixels, int64_t shape[4]) {
    return guarded([&] {
        const Result& core = core_of(result);
        if (!core.has_images)
            throw InputError("this bundle has no VAE decoder, so there are no images; use himar_result_latents instead.");
        const std::int64_t side = core.model.image_size;
        const std::uint8_t*& out = given(pixels, "pixels");
        write_shape(shape, static_cast<std::int64_t>(core.labels.size()), side, side, 3);
        out = core.images.data();
        return HIMAR_OK;
    });
}

himar_status himar_result_latents(const himar_result* result, const float** latents, int64_t shape[4]) {
    return guarded([&] {
        const Result& core = core_of(result);
        return give_latents(core, core.latents, core.model.latent_size, latents, shape);
    });
}

himar_status himar_result_low_latents(const himar_result* result, const float** latents, int64_t shape[4]) {
    return guarded([&] {
        const Result& core = core_of(result);
        if (core.model.codes != 0)
            throw InputError("this model's family has no low-resolution latents; use himar_result_latents instead.");
        return give_latents(core, core.low_latents, core.model.low_latent_size, latents, shape);
    });
}

himar_status himar_result_codes(const himar_result* result, const int64_t** codes, int64_t shape[2]) {
    return guarded([&] {
        const Result& core = core_of(result);
        if (core.model.codes == 0) throw InputError("this model's family has no codes; use himar_result_latents instead.");
        const std::int64_t*& out = given(codes, "codes");
        std::int64_t* const sizes = &given(shape, "shape");
        sizes[0] = static_cast<std::int64_t>(core.labels.size()), sizes[1] = core.model.codes;
        out = core.codes.data();
        return HIMAR_OK;
    });
}

himar_status himar_result_labels(const himar_result* result, const int64_t** labels, size_t* count) {
    return guarded([&] {
        const Result& core = core_of(result);
        const std::int64_t*& out = given(labels, "labels");
        given(count, "count") = core.labels.size();
        out = core.labels.data();
        return HIMAR_OK;
    });
}

himar_status himar_result_truncated(const himar_result* result, const size_t** places, size_t* count) {
    return guarded([&] {
        const Result& core = core_of(result);
        const size_t*& out = given(places, "places");
        given(count, "count") = core.truncated.size();
        out = core.truncated.data();
        return HIMAR_OK;
    });
}

himar_status himar_result_recipe(const himar_result* result, size_t index, const char** json) {
    return guarded([&] {
        const Result& core = core_of(result);
        const char*& out = given(json, "json");
        if (index >= core.recipes.size())
            throw InputError("index is " + std::to_string(index) + ", but the result holds " +
                             std::to_string(core.recipes.size()) + " images.");
        out = core.recipes[index].c_str();
        return HIMAR_OK;
    });
}

himar_status himar_result_seconds(const himar_result* result, double* total, double* engines) {
    return guarded([&] {
        const Result& core = core_of(result);
        if (total != nullptr) *total = core.seconds;
        if (engines != nullptr) *engines = core.engine_seconds;
        return HIMAR_OK;
    });
}

himar_status himar_result_stage_seconds(const himar_result* result, const double** seconds, size_t* count) {
    return guarded([&] {
        const Result& core = core_of(result);
        const double*& out = given(seconds, "seconds");
        given(count, "count") = core.stage_seconds.size();
        out = core.stage_seconds.data();
        return HIMAR_OK;
    });
}
