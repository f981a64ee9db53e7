// Any bytes as a manifest: it is read, or refused by a BundleError; nothing else may happen.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "bundle/manifest.h"
#include "error.h"
#include "families/hi_mar/model.h"
#include "families/hi_mar/sampling.h"
#include "run_corpus.h"

using namespace himar::core;
using himar::core::hi_mar::Sampling;

namespace {

// A manifest that was read names no path that leads out, and no sizes that the loop cannot number.
void check(const Manifest& manifest) {
    for (const auto& [path, entry] : manifest.files) inside(path, "read");
    for (const auto& [name, component] : manifest.components) {
        inside(component.file, "read");
        inside(component.engine_file, "read");
        if (manifest.files.count(component.engine_file) == 0) std::abort();
    }
    inside(manifest.selftest, "read");
    for (const auto& [name, setting] : manifest.sampling) static_cast<const Sampling&>(*setting).check();  // must be in range, whatever its name
    const hi_mar::HiMarModel& model = static_cast<const hi_mar::HiMarModel&>(*manifest.model);
    if (manifest.sampling.empty() || manifest.max_batch < 1 || model.grid() < 1) std::abort();
    if (model.low_positions() > 1 << 16 || model.high_positions() > 1 << 16) std::abort();
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
