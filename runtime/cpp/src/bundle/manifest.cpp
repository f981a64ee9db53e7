#include "bundle/manifest.h"

#include <algorithm>
#include <cctype>

#include "bundle/json_reader.h"
#include "error.h"
#include "text.h"

namespace himar::core {
namespace {

constexpr int kReadableMajor = 5, kMostDepth = 32;
constexpr const char* kReadable = "5";
constexpr std::int64_t kMostTokens = 1 << 20;
constexpr std::int64_t kMostBatch = 1 << 20;  // more overflow the kernels' 32-bit item numbers

// True for two whole numbers with a dot between them. No std::regex: it recurses once per character.
bool is_dotted(const std::string& text) {
    const std::size_t dot = text.find('.');
    const auto digits = [](const std::string& part) {
        return !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    };
    return dot != std::string::npos && digits(text.substr(0, dot)) && digits(text.substr(dot + 1));
}

void check_schema(const std::string& version, const std::string& source) {
    const std::string major = version.substr(0, version.find('.'));
    if (!is_dotted(version) || major == "0")
        throw BundleError(source + ": schema_version is " + in_quotes(version) + "; it must be like '1.0'.");
    const std::string digits = major.substr(std::min(major.find_first_not_of('0'), major.size()));
    if (digits.size() > 9 || (!digits.empty() && std::stoi(digits) > kReadableMajor))
        throw BundleError(source + " has schema version " + version + ", but this himar reads versions up to " + kReadable +
                          ".x; install a newer himar or build the bundle again with this one.");
}

// One name for each class, or none at all.
std::vector<std::string> read_class_names(const JsonReader& reader, std::int64_t classes) {
    std::vector<std::string> names;
    if (!reader.has("class_names")) return names;
    const Json& listed = reader.list("class_names");
    if (listed.size() != static_cast<std::size_t>(classes))
        throw BundleError(reader.source() + ": " + reader.at("class_names") + " has " + std::to_string(listed.size()) +
                          " entries; it must have one for each of the " + std::to_string(classes) + " classes.");
    for (const Json& name : listed) {
        if (!name.is_string() || name.get_ref<const std::string&>().find('\0') != std::string::npos)
            throw BundleError(reader.source() + ": " + reader.at("class_names") + " holds " + shown(name) +
                              "; each entry must be a name.");
        names.push_back(name.get<std::string>());
    }
    return names;
}

// The settings of `sampling`, then those of `solver_sampling`, which readers before schema 1.2 do not see, and of
// `forecast_sampling`, which readers before 1.3, 2.1 or 4.1 do not see.
decltype(Manifest::sampling) read_sampling(const JsonReader& top, const Model& model) {
    const JsonReader reader = top.object("sampling");
    auto entries = reader.objects();
    if (entries.empty()) throw BundleError(reader.source() + ": sampling is empty; it needs at least one setting.");
    for (const char* const further : {"solver_sampling", "forecast_sampling"}) {
        if (!top.values().contains(further)) continue;
        for (auto& entry : top.object(further).objects()) {
            const auto stands = [&](const auto& other) { return other.first == entry.first; };
            if (std::any_of(entries.begin(), entries.end(), stands))
                throw BundleError(reader.source() + ": " + entry.second.path() +
                                  " is a setting of sampling too; build the bundle again.");
            entries.push_back(std::move(entry));
        }
    }
    decltype(Manifest::sampling) settings;
    for (const auto& [name, entry] : entries) settings.emplace_back(name, model.read_settings(entry));
    return settings;
}

TensorSpec read_tensor(const JsonReader& reader) {
    TensorSpec tensor;
    tensor.dtype = reader.text("dtype");
    if (tensor.dtype != "float32" && tensor.dtype != "float16" && tensor.dtype != "int64")
        throw BundleError(reader.source() + ": " + reader.at("dtype") + " is " + in_quotes(tensor.dtype) +
                          "; known are float32, float16, int64.");
    const Json& shape = reader.list("shape");
    for (const Json& size : shape) {
        if (size.is_string())
            tensor.shape.emplace_back(size.get<std::string>());
        else if (size.is_number_integer() && size > 0 && size <= (std::int64_t{1} << 40))
            tensor.shape.emplace_back(size.get<std::int64_t>());
        else
            throw BundleError(reader.source() + ": " + reader.at("shape") + " is " + shown(shape) +
                              "; it must hold sizes and axis names.");
    }
    tensor.name = reader.text("name");
    return tensor;
}

std::array<std::int64_t, 3> read_range(const JsonReader& profile, const std::string& axis) {
    const Json& values = profile.list(axis);
    const auto whole = [](const Json& value) { return value.is_number_integer(); };
    if (values.size() != 3 || !std::all_of(values.begin(), values.end(), whole) || values[1] < values[0] ||
        values[2] < values[1])
        throw BundleError(profile.source() + ": " + profile.at(axis) + " is " + shown(values) +
                          "; it must be [min, opt, max].");
    return {values[0].get<std::int64_t>(), values[1].get<std::int64_t>(), values[2].get<std::int64_t>()};
}

ComponentSpec read_component(const std::string& name, const JsonReader& reader) {
    const JsonReader engine = reader.object("engine"), profile = reader.object("profile");
    ComponentSpec component;
    component.name = name;
    component.file = inside(reader.text("file"), reader.source());
    component.precision = reader.text("precision");
    for (const JsonReader& entry : reader.items("inputs")) component.inputs.push_back(read_tensor(entry));
    for (const JsonReader& entry : reader.items("outputs")) component.outputs.push_back(read_tensor(entry));
    for (const auto& item : profile.values().items()) component.profile[item.key()] = read_range(profile, item.key());
    component.backend = engine.text("backend");
    component.engine_file = inside(engine.text("file"), reader.source());
    if (reader.values().contains("parts")) {
        component.weight_bytes = 0;
        for (const JsonReader& part : reader.items("parts"))  // no sum of these overflows
            *component.weight_bytes += std::clamp<std::int64_t>(part.whole("bytes"), 0, std::int64_t{1} << 40);
    }
    return component;
}

TokenizerInfo read_tokenizer(const JsonReader& reader) {
    const JsonReader hashes = reader.object("sha256");
    const auto file = [&](const char* name) {
        return HashedFile{inside(reader.text(name), reader.source()), hashes.text(name)};
    };
    const auto repairs = reader.values().find("repairs_text");
    return {file("vocabulary"), file("merges"), reader.positive("length", kMostTokens), reader.whole("start"),
            reader.whole("end"), reader.whole("padding"),
            repairs != reader.values().end() && repairs->is_boolean() && repairs->get<bool>()};
}

// BundleError unless a bundle with a text encoder has a tokenizer, and that one the model's length and files' hashes.
void check_tokenizer(const Manifest& manifest, const std::string& source) {
    const ModelFacts facts = manifest.model->facts();
    if (!manifest.tokenizer) {
        if (facts.is_from_text() && manifest.components.count(kTextEncoder) > 0)
            throw BundleError(source + " has a " + kTextEncoder + ", but lacks tokenizer; build the bundle again.");
        return;
    }
    if (!facts.is_from_text() || manifest.tokenizer->length != facts.context_length)
        throw BundleError(source + ": tokenizer.length is " + std::to_string(manifest.tokenizer->length) +
                          ", but the model takes " +
                          (facts.is_from_text() ? "contexts of " + std::to_string(facts.context_length) + " rows" : "no texts") +
                          "; build the bundle again.");
    for (const auto& [name, named] : {std::pair("vocabulary", manifest.tokenizer->vocabulary),
                                      std::pair("merges", manifest.tokenizer->merges)}) {
        const auto found = manifest.files.find(named.file);
        if (found != manifest.files.end() && found->second.sha256 != named.sha256)
            throw BundleError(source + ": tokenizer.sha256." + name + " is not the sha256 of " + named.file +
                              "; copy the bundle again or rebuild it.");
    }
}

std::string read_capability(const JsonReader& reader, const Json& value) {
    if (!value.is_string() || !is_dotted(value.get<std::string>()))
        throw BundleError(reader.source() + ": backend names the compute capability " + shown(value) +
                          "; it must be like '9.0'.");
    return value.get<std::string>();
}

BackendInfo read_backend(const JsonReader& reader) {
    BackendInfo backend;
    if (reader.has("compute_capability"))
        backend.compute_capability = read_capability(reader, reader.text("compute_capability"));
    if (reader.has("least_compute_capability"))
        backend.least_compute_capability = read_capability(reader, reader.text("least_compute_capability"));
    if (reader.has("compute_capabilities")) {
        backend.compute_capabilities.emplace();
        for (const Json& each : reader.list("compute_capabilities"))
            backend.compute_capabilities->push_back(read_capability(reader, each));
    }
    backend.name = reader.text("name");
    backend.version = reader.text("version");
    const auto found = reader.values().find("version_compatible");
    backend.version_compatible = found != reader.values().end() && found->is_boolean() && found->get<bool>();
    return backend;
}

}  // namespace

Manifest parse_manifest(std::string_view text, const std::string& source) {
    Json raw;
    try {
        // Nothing in a manifest is deep; text that is would overflow the stack of whoever walks it.
        raw = Json::parse(text, [&](int depth, Json::parse_event_t, Json&) {
            if (depth > kMostDepth)
                throw BundleError(source + " is nested more than " + std::to_string(kMostDepth) +
                                  " deep, which no manifest is; build the bundle again.");
            return true;
        });
    } catch (const Json::exception& error) {
        throw BundleError(source + " is not valid JSON (" + error.what() + "); build the bundle again.");
    }
    const JsonReader top(raw, source, "");
    check_schema(top.text("schema_version"), source);
    Manifest manifest;
    manifest.schema_version = top.text("schema_version");
    manifest.himar_version = top.text("himar_version");
    manifest.model = read_model(top.object("model"));
    manifest.class_names = read_class_names(top.object("model"), manifest.model->facts().classes);
    manifest.sampling = read_sampling(top, *manifest.model);
    manifest.max_batch = top.positive("max_batch", kMostBatch);
    for (const auto& [name, entry] : top.object("components").objects())
        manifest.components[name] = read_component(name, entry);
    manifest.backend = read_backend(top.object("backend"));
    for (const auto& [path, entry] : top.object("files").objects())
        manifest.files[inside(path, source)] = {entry.text("sha256"), entry.whole("bytes")};
    manifest.selftest = inside(top.text("selftest"), source);
    top.object("provenance");
    if (top.values().contains("tokenizer")) manifest.tokenizer = read_tokenizer(top.object("tokenizer"));
    check_tokenizer(manifest, source);
    if (raw.contains("memory")) manifest.memory = std::make_shared<const Json>(Json{{"memory", raw["memory"]}});

    std::vector<std::string> referenced = {manifest.selftest};
    for (const auto& [name, component] : manifest.components)
        referenced.insert(referenced.end(), {component.file, component.engine_file});
    if (manifest.tokenizer)
        referenced.insert(referenced.end(), {manifest.tokenizer->vocabulary.file, manifest.tokenizer->merges.file});
    for (const std::string& path : referenced)
        if (manifest.files.count(path) == 0)
            throw BundleError(source + " names " + path + ", but gives no hash for it; build the bundle again.");
    return manifest;
}

const std::string& inside(const std::string& path, const std::string& source) {
    bool good = path.find_first_not_of("/.") != std::string::npos && path.front() != '/' &&
                path.find('\\') == std::string::npos && path.find('\0') == std::string::npos &&
                !(path.size() > 1 && path[1] == ':' && std::isalpha(static_cast<unsigned char>(path[0])));
    for (std::size_t start = 0; good && start <= path.size();) {
        const std::size_t end = std::min(path.find('/', start), path.size());
        good = path.compare(start, end - start, "..") != 0;
        start = end + 1;
    }
    if (!good)
        throw BundleError(source + " names the path " + in_quotes(path) + ", which leads out of the bundle; refusing to load it.");
    return path;
}

}  // namespace himar::core
