#include "memory/prediction.h"

#include <algorithm>
#include <limits>
#include <map>

#include "bundle/json_reader.h"
#include "error.h"

namespace himar::core {
namespace {

constexpr const char *kKey = "memory", *kGpu = "gpu", *kOrt = "onnxruntime";

// What a build measured on one kind of device, by one backend. once: bytes that its libraries take beside the engines.
struct Figures {
    std::string backend;
    std::int64_t once = 0;
    std::map<std::string, Measured> components;
};

bool is_size(const Json& value) {
    return value.is_number_unsigned() ? value <= std::numeric_limits<std::int64_t>::max() : value.is_number_integer() && value >= 0;
}

Measured read_measured(const JsonReader& reader) {
    const std::int64_t loaded = reader.whole("loaded");
    const std::int64_t most = reader.positive("most", std::numeric_limits<std::int64_t>::max());
    const Json &images = reader.list("images"), &runs = reader.list("runs");
    const auto sizes = [](const Json& list) { return std::all_of(list.begin(), list.end(), is_size); };
    bool good = loaded >= 0 && sizes(images) && sizes(runs) && !images.empty() && images.size() == runs.size();
    Measured found{loaded, {}, {}, most};
    if (good) {
        found.images = images.get<std::vector<std::int64_t>>();
        found.runs = runs.get<std::vector<std::int64_t>>();
        const auto falls = [](std::int64_t a, std::int64_t b) { return a >= b; };
        good = found.images.front() >= 1 &&
               std::adjacent_find(found.images.begin(), found.images.end(), falls) == found.images.end();
    }
    if (!good)
        throw BundleError(reader.source() + ": " + reader.path() + " is " + shown(reader.values()) +
                          "; it must give bytes once loaded, and those of runs of rising numbers of images; build the bundle "
                          "again.");
    return found;
}

// Of a GPU only what was measured on one; nothing where nothing was.
Figures figures(const Manifest& manifest, bool is_gpu) {
    Figures found;
    if (manifest.memory == nullptr) return found;
    JsonReader reader = JsonReader(*manifest.memory, "the manifest", "").object(kKey);
    if (is_gpu) {
        if (!reader.values().contains(kGpu)) return found;
        reader = reader.object(kGpu);
        found.once = reader.whole("once");
        if (found.once < 0)
            throw BundleError(reader.source() + ": " + reader.at("once") + " is " + std::to_string(found.once) +
                              "; it must be at least 0.");
    }
    found.backend = is_gpu ? reader.text("backend") : kOrt;
    for (const auto& [name, entry] : reader.object("components").objects()) found.components[name] = read_measured(entry);
    return found;
}

// The bytes of an engine's file, or of a graph's weights, whose file does not say which are whose.
std::int64_t weights_of(const Manifest& manifest, const ComponentSpec& spec, const std::string& runner) {
    if (runner != kOrt || !spec.weight_bytes) return manifest.files.at(spec.engine_file).bytes;
    return *spec.weight_bytes;
}

// As Python's //: towards smaller numbers.
__extension__ using Wide = __int128;  // no product of two sizes overflows it
Wide floor_divided(Wide value, Wide by) { return value / by - (value % by < 0 ? 1 : 0); }

}  // namespace

double Measured::run(std::int64_t count) const {
    const Wide given = std::min(count, most);
    const std::size_t last = images.size() - 1;
    if (last == 0) return static_cast<double>(Wide{runs[0]} * given / images[0]);
    const Wide first = images[last - 1], low = runs[last - 1], high = runs[last];
    const Wide grown = low + floor_divided((high - low) * (given - first), images[last] - first);
    return static_cast<double>(std::max(given >= first ? low : Wide{0}, grown));
}

Prediction predict(const Manifest& manifest, std::int64_t images, std::int64_t lanes, bool is_gpu, const std::string& backend) {
    Prediction found{std::min(images, manifest.max_batch), lanes};
    const Figures known = figures(manifest, is_gpu);
    const std::vector<std::string> deferred = manifest.model->deferred(), needed = manifest.model->first_needed(manifest);
    const auto holds = [](const std::vector<std::string>& names, const std::string& name) {
        return std::find(names.begin(), names.end(), name) != names.end();
    };
    double added = 0, shared = 0;  // runs of sessions, each of which keeps its own memory; of engines that share a lane's
    bool counts = false;
    for (const auto& [name, spec] : manifest.components) {
        const std::string& runner = backend.empty() ? spec.backend : backend;
        const auto own = known.components.find(name);
        const bool is_known = own != known.components.end() && runner == known.backend;
        counts |= is_known;
        if (holds(deferred, name) && !holds(needed, name)) continue;
        found.loaded += static_cast<double>(is_known ? own->second.loaded : weights_of(manifest, spec, runner));
        if (!is_known) continue;
        const double run = own->second.run(found.images);
        if (runner == kOrt)
            added += run;
        else
            shared = std::max(shared, run);
    }
    if (counts) found.loaded += static_cast<double>(known.once);
    // On a GPU all lanes queue the runs of a session on one stream, one after another.
    const auto count = static_cast<double>(lanes), sessions = is_gpu ? 1.0 : count;
    const double buffers = is_gpu ? static_cast<double>(manifest.model->resident_bytes(manifest)) : 0;
    found.runs = sessions * added + count * (shared + buffers);
    return found;
}

}  // namespace himar::core
