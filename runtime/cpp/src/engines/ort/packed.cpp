#include "engines/ort/packed.h"

#include <pwd.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <iterator>
#include <mutex>
#include <set>
#include <utility>

#include "bundle/json_reader.h"
#include "bundle/sha256.h"
#include "engines/ort/engine.h"
#include "error.h"
#include "text.h"
#include "warnings.h"

namespace himar::core {
namespace {

namespace fs = std::filesystem;

constexpr const char* kVariable = "HIMAR_ORT_PACKED";
constexpr const char* kLimitVariable = "HIMAR_ORT_PACKED_GIB";
constexpr const char* kDefaultGib = "32";

// These are packed.py's, and mean what they mean there.
constexpr const char* kRecipe = "2";
constexpr std::uintmax_t kDiskPerWeight = 3;
constexpr const char *kGraph = "graph.onnx", *kWeights = "weights.bin";
constexpr const char* kLeastExternal = "1024";
const std::set<std::string> kCpuFields = {"vendor_id", "cpu family", "model", "model name", "stepping", "flags",
                                          "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"};

void warn_once(const std::string& text) {
    static std::mutex lock;
    static std::set<std::string> said;
    const std::lock_guard<std::mutex> guard(lock);
    if (said.insert(text).second) warn(text);
}

std::string variable(const char* name) {
    const char* const value = std::getenv(name);
    return value == nullptr ? "" : value;
}

// The bytes that all entries may take.
std::uintmax_t limit() {
    std::string value = variable(kLimitVariable);
    if (value.empty()) value = kDefaultGib;
    if (value.size() > 6 || value.find_first_not_of("0123456789") != std::string::npos)
        throw InputError(std::string(kLimitVariable) + " is " + in_quotes(value) +
                         "; it must be a whole number from 0 to 999999, the GiB of disk that graphs with packed weights may "
                         "take.");
    return static_cast<std::uintmax_t>(std::stoul(value)) << 30;
}

fs::path packed_directory() {
    std::string cache = variable("XDG_CACHE_HOME"), home = variable("HOME");
    if (cache.empty() && home.empty())
        if (const passwd* const user = getpwuid(getuid())) home = user->pw_dir;
    return (cache.empty() ? fs::path(home) / ".cache" : fs::path(cache)) / "himar" / "onnxruntime";
}

struct stat facts_of(const fs::path& file) {
    struct stat facts;
    if (stat(file.c_str(), &facts) != 0) throw std::system_error(errno, std::generic_category(), file.string());
    return facts;
}

std::int64_t changed(const struct stat& facts) {
    return facts.st_mtim.tv_sec * std::int64_t{1000000000} + facts.st_mtim.tv_nsec;
}

// An exception where an entry is missing or damaged. The weights are read only where their time of change is not the one
// that was noted: reading them all would take most of the time that they save.
void require_whole(const fs::path& folder) {
    std::ifstream file(folder / kEntry, std::ios::binary);
    if (!file) throw EngineError(std::string(kEntry) + " cannot be read");
    const Json entry = Json::parse(file);
    const struct stat facts = facts_of(folder / kWeights);
    if (facts.st_size != entry.at("bytes").get<std::int64_t>())
        throw EngineError(std::string(kWeights) + " has " + std::to_string(facts.st_size) + " bytes, not " +
                          entry.at("bytes").dump());
    for (const auto& [name, key] : {std::pair(kGraph, "graph"), std::pair(kWeights, "weights")})
        if ((name == kGraph || changed(facts) != entry.at("changed").get<std::int64_t>()) &&
            sha256_of_file(folder / name) != entry.at(key).get<std::string>())
            throw EngineError(std::string(name) + " does not have the sha256 that was stored with it");
}

// What keeps a whole entry in use; nothing where there is none, or where it is damaged, which is said if `warns`.
std::optional<OpenFile> use_whole(const fs::path& folder, bool warns) {
    std::optional<OpenFile> used = use_entry(folder);
    try {
        require_whole(folder);
    } catch (const std::exception& error) {
        if (warns && fs::is_directory(folder))
            warn(folder.string() + " is damaged (" + error.what() + "); packing again");
        return std::nullopt;
    }
    return used;
}

// Write the entry; the caller holds its lock.
void pack(const fs::path& folder, const Ort::Env& env, const fs::path& path, const Ort::SessionOptions& options,
          std::optional<std::int64_t> weights) {
    std::error_code stays;
    fs::remove_all(folder, stays);  // a damaged one
    const std::uintmax_t needed = kDiskPerWeight * static_cast<std::uintmax_t>(weights.value_or(0));
    remove_oldest_entries(folder.parent_path(), limit() - std::min(limit(), needed));
    const std::uintmax_t free = fs::space(folder.parent_path()).available;
    if (free < needed)
        throw EngineError("the disk has " + std::to_string(free) + " bytes free, and " + std::to_string(needed) +
                          " are wanted");
    make_folder(folder, [&](const fs::path& unfinished) {
        Ort::SessionOptions writes = options.Clone();
        writes.SetOptimizedModelFilePath((unfinished / kGraph).c_str());
        writes.AddConfigEntry("session.optimized_model_external_initializers_file_name", kWeights);
        writes.AddConfigEntry("session.optimized_model_external_initializers_min_size_in_bytes", kLeastExternal);
        writes.AddConfigEntry("session.save_external_prepacked_constant_initializers", "1");
        Ort::Session(env, path.c_str(), writes);
        const fs::path kept = unfinished / kWeights;
        std::ofstream(kept, std::ios::app).close();  // ONNX Runtime writes none where every weight is small
        const struct stat facts = facts_of(kept);
        const Json entry = {{"graph", sha256_of_file(unfinished / kGraph)}, {"weights", sha256_of_file(kept)},
                            {"bytes", facts.st_size}, {"changed", changed(facts)}};
        std::ofstream file(unfinished / kEntry, std::ios::binary);
        if (!(file << entry.dump(1) << "\n") || !file.flush())
            throw EngineError(std::string(kEntry) + " cannot be written");
    });
}

// ONNX Runtime writes packed weights from 1.21 on.
bool writes_packed() {
    int major = 0, minor = 0;
    std::sscanf(ort_version().c_str(), "%d.%d", &major, &minor);
    return std::pair(major, minor) >= std::pair(1, 21);
}

}  // namespace

bool keeps_packed() {
    const std::string value = variable(kVariable);
    if (value != "" && value != "0" && value != "1")
        throw InputError(std::string(kVariable) + " is " + in_quotes(value) +
                         "; it must be 1 to keep graphs with packed weights, or 0.");
    limit();
    return value == "1";
}

GraphContent content_of(const Bundle& bundle, const std::string& file) {
    const Manifest& manifest = bundle.manifest();
    std::set<std::string> apart = {manifest.selftest, file};
    for (const auto& [name, spec] : manifest.components) apart.insert({spec.file, spec.engine_file});
    std::vector<std::string> names = {file}, hashes = {manifest.files.at(file).sha256};
    for (const auto& [name, entry] : manifest.files) {
        if (apart.count(name) > 0) continue;
        names.push_back(name);
        hashes.push_back(name + " " + entry.sha256);
    }
    return {std::move(hashes), [bundle, names] { bundle.check(names); }};
}

std::string cpu_facts(const fs::path& cpuinfo) {
    std::ifstream file(cpuinfo);
    std::set<std::string> known;
    for (std::string line; std::getline(file, line);) {
        const std::size_t colon = line.find(':');
        if (colon == std::string::npos) continue;
        const std::string name = trimmed(line.substr(0, colon));
        if (kCpuFields.count(name) > 0) known.insert(name + " " + trimmed(line.substr(colon + 1)));
    }
    utsname system;
    if (known.empty() || uname(&system) != 0) return "";
    return std::string(system.machine) + "\n" + joined({known.begin(), known.end()}, "\n");
}

fs::path packed_folder(const std::vector<std::string>& hashes, const std::string& cpu) {
    std::vector<std::string> parts = {kRecipe};
    parts.insert(parts.end(), hashes.begin(), hashes.end());
    parts.insert(parts.end(), {ort_version(), Ort::GetBuildInfoString(), cpu});
    return packed_directory() / sha256(joined(parts, std::string(1, '\0'))).substr(0, 32);
}

std::optional<PackedSession> packed_session(const Ort::Env& env, const fs::path& path, const Ort::SessionOptions& options,
                                            std::optional<std::int64_t> weights, const GraphContent& content) {
    const std::string cpu = cpu_facts();
    if (!writes_packed()) {
        warn_once(std::string("weights are not kept packed: ") + kVariable +
                  " needs ONNX Runtime 1.21 or later, and this is " + ort_version());
        return std::nullopt;
    }
    if (cpu.empty()) {
        warn_once("weights are not kept packed: this system does not tell what its CPU can do");
        return std::nullopt;
    }
    const fs::path folder = packed_folder(content.hashes, cpu);
    std::exception_ptr damaged;  // of the bundle, whose own graph would not be loaded either
    try {
        std::optional<OpenFile> used = use_whole(folder, false);
        if (!used) {
            making_entry(folder, [&] {
                used = use_whole(folder, true);
                if (used) return;  // another process was faster
                try {
                    content.check();
                } catch (...) {
                    damaged = std::current_exception();
                    throw;
                }
                pack(folder, env, path, options, weights);
                used = use_whole(folder, true);
            });
            remove_oldest_entries(folder.parent_path(), limit());
        }
        if (!used) throw EngineError("what was just packed is not whole");
        Ort::SessionOptions mapped = options.Clone();
        mapped.SetGraphOptimizationLevel(ORT_DISABLE_ALL);  // all of it was done
        return PackedSession{std::move(used), Ort::Session(env, (folder / kGraph).c_str(), mapped)};
    } catch (const std::exception& error) {
        if (damaged != nullptr) std::rethrow_exception(damaged);
        const std::string said = error.what();
        warn(path.filename().string() + " cannot be kept packed in " + folder.string() + ", loading it without: " +
             said.substr(0, said.find('\n')));
        return std::nullopt;
    }
}

}  // namespace himar::core
