// Any bytes as a manifest: it is read, or refused by a BundleError; nothing else may happen.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "bundle/manifest.h"
#include "error.h"
#include "families/hi_mar/model.h"
#include "families/hi_mar/sampling.h"
#include "families/hmar/model.h"
#include "families/hmar/sampling.h"
#include "memory/prediction.h"
#include "run_corpus.h"

using namespace himar::core;

namespace {

// Settings must be in range, whatever their names.
void check_hi_mar(const Manifest& manifest) {
    for (const auto& [name, setting] : manifest.sampling) static_cast<const hi_mar::Sampling&>(*setting).check();
    const hi_mar::HiMarModel& model = static_cast<const hi_mar::HiMarModel&>(*manifest.model);
    if (model.is_from_text() ? model.classes != 0 : model.classes < 1) std::abort();
    if (model.is_from_text()) inside(model.empty_context.file, "read");
    if (manifest.tokenizer)
        for (const HashedFile& file : {manifest.tokenizer->vocabulary, manifest.tokenizer->merges}) inside(file.file, "read");
    if (model.grid() < 1 || model.low_positions() > 1 << 16 || model.high_positions() > 1 << 16) std::abort();
}

void check_hmar(const Manifest& manifest) {
    const hmar::HmarModel& model = static_cast<const hmar::HmarModel&>(*manifest.model);
    for (const auto& [name, setting] : manifest.sampling) {
        const hmar::Sampling& sampling = static_cast<const hmar::Sampling&>(*setting);
        sampling.check();
        try {
            sampling.check_model(model.scales, model.vocab);
            hmar::plan(sampling, model.scales);
        } catch (const InputError&) {  // of a schedule for another model
        }
    }
    for (const ArrayEntry* const entry : {&model.embedding, &model.weights, &model.biases}) inside(entry->file, "read");
    if (model.base() < 0 || model.image_side() > 1 << 15 || model.scales.tokens() > std::int64_t{1} << 26) std::abort();
}

// What it takes of memory is a number, or refused in a sentence.
void check_memory(const Manifest& manifest) {
    for (const bool is_gpu : {false, true}) {
        try {
            const double bytes = predict(manifest, 3, 2, is_gpu, "").total();
            if (std::isnan(bytes)) std::abort();
        } catch (const Error&) {
        }
    }
}

// A manifest that was read names no path that leads out, and no sizes that the loop cannot number.
void check(const Manifest& manifest) {
    for (const auto& [path, entry] : manifest.files) inside(path, "read");
    for (const auto& [name, component] : manifest.components) {
        inside(component.file, "read");
        inside(component.engine_file, "read");
        if (manifest.files.count(component.engine_file) == 0) std::abort();
    }
    inside(manifest.selftest, "read");
    if (manifest.sampling.empty() || manifest.max_batch < 1) std::abort();
    if (manifest.model->family == "hmar")
        check_hmar(manifest);
    else
        check_hi_mar(manifest);
    check_memory(manifest);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    Manifest manifest;
    try {
        manifest = parse_manifest(text, "manifest.json");
    } catch (const BundleError&) {
        return 0;
    }
    check(manifest);
    ++inputs_read;
    return 0;
}
