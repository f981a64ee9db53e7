// What a bundle's manifest.json says, schemas 1 to 4, read and checked without loading an engine.
//
// The schema, its checks and its sentences are those of himar_runtime/manifest.py; unknown keys are ignored.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "families/family.h"

namespace himar::core {

// A size, or the name of a dynamic axis.
using Axis = std::variant<std::int64_t, std::string>;

struct TensorSpec {
    std::string name;
    std::string dtype;  // "float32", "float16", "int64"
    std::vector<Axis> shape;
};

struct ComponentSpec {
    std::string name;
    std::string file;  // its ONNX model
    std::string precision;
    std::vector<TensorSpec> inputs, outputs;
    std::map<std::string, std::array<std::int64_t, 3>> profile;  // axis → min, opt, max
    std::string backend;
    std::string engine_file;                    // what the backend loads
    std::optional<std::int64_t> weight_bytes;  // of all its weights, where the manifest says
};

// What built the engines, and for which GPUs; a compute capability is written "9.0".
struct BackendInfo {
    std::string name, version;
    std::optional<std::string> compute_capability;                 // the only one supported
    std::optional<std::vector<std::string>> compute_capabilities;  // all that are supported
    std::optional<std::string> least_compute_capability;           // this one and later ones
    bool version_compatible;
};

// A float32 array in one of the bundle's files.
struct ArrayEntry {
    std::string file;
    std::int64_t offset, count;
};

struct FileEntry {
    std::string sha256;
    std::int64_t bytes;
};

// The files of a bundle's tokenizer, and how prompts become rows of ids.
struct TokenizerInfo {
    HashedFile vocabulary, merges;
    std::int64_t length, start, end, padding;
    bool repairs_text;
};

struct Manifest {
    std::string schema_version, himar_version;
    std::shared_ptr<const Model> model;
    std::vector<std::string> class_names;  // model.class_names, one for each class; empty where the bundle has none
    std::vector<std::pair<std::string, std::shared_ptr<const Settings>>> sampling;  // the first is the default
    std::int64_t max_batch;
    std::map<std::string, ComponentSpec> components;
    BackendInfo backend;
    std::map<std::string, FileEntry> files;
    std::string selftest;
    std::optional<TokenizerInfo> tokenizer;  // of a bundle that takes prompts
    std::shared_ptr<const Json> memory;      // an object of the key `memory` alone, unchecked; null where there is none
};

// Read and check a manifest; every BundleError names `source` and the key that is wrong.
Manifest parse_manifest(std::string_view text, const std::string& source);

// Return `path` if it is relative, plain and stays inside the bundle; else BundleError.
const std::string& inside(const std::string& path, const std::string& source);

}  // namespace himar::core
