// What a caller asks for: the parameter structs of the C interface, checked where the value is known and before any engine
// runs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/prompts.h"
#include "bundle/bundle.h"
#include "engines/networks.h"
#include "families/edit.h"
#include "himar/himar.h"

namespace himar::core {

struct Request {
    std::vector<std::int64_t> labels;  // kNoClass of texts
    std::vector<ImageOrigin> origins;  // of each label
    std::shared_ptr<const Settings> settings;
    std::optional<himar_draws> draws;  // instead of those of the origins' seeds
    std::optional<Edit> edit;          // of the caller's memory
    RequestTexts texts{};
};

// A finished step of a request, over all of its chunks; see himar_progress.
using OnStep = std::function<bool(const himar_progress&)>;

// Read and check parameters, null for the defaults. InputError for a struct_size that no header of this interface had.
LoadRequest read_load(const himar_load_params* params);

// InputError, in the sentences of himar_runtime's `Pipeline.generate`; prompts: those of the bundle. Contexts are the
// caller's, and the request lives no longer than they do.
Request read_request(const himar_generate_params& params, const Manifest& manifest, Prompts& prompts);

// The settings of such a request alone, held against the model; the rest of the parameters is not looked at. InputError.
std::shared_ptr<const Settings> read_settings(const himar_generate_params& params, const Manifest& manifest);

// Copy text with a NUL at its end to a caller of C, as himar_generate_params_to_string describes it.
himar_status write_text(const std::string& whole, char* text, std::size_t capacity, std::size_t* needed);

// The same of `Pipeline.edit`: images and masks are the caller's, and the request lives no longer than they do.
Request read_edit(const himar_generate_params& params, const himar_edit_params& edit, const Bundle& bundle,
                  Prompts& prompts);

}  // namespace himar::core
