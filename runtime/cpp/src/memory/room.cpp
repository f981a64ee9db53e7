#include "memory/room.h"

#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include "engines/ort/packed.h"
#include "error.h"
#include "memory/available.h"
#include "memory/prediction.h"
#include "text.h"
#include "warnings.h"

namespace himar::core {
namespace {

// How many times what is available must be needed before it is refused: predictions are within a sixth or so.
constexpr double kClearly = 1.25;
// Of what is available, what is needed without being tight.
constexpr double kEasily = 0.9;

// A size in GB or MB for a sentence.
std::string gigabytes(double size) {
    char text[48];
    if (size >= 1e8)
        std::snprintf(text, sizeof text, "%.2f GB", size / 1e9);
    else
        std::snprintf(text, sizeof text, "%.1f MB", size / 1e6);
    return text;
}

std::string in_lanes(std::int64_t lanes) { return lanes > 1 ? " in " + std::to_string(lanes) + " lanes" : ""; }

// What lanes of a bundle need on a device.
class Needs {
public:
    Needs(const Bundle& bundle, const LoadRequest& request)
        : manifest_(bundle.manifest()), is_gpu_(Device::parse(request.device).is_gpu), backend_(request.backend) {
        // What is mapped from a file can be given back and read again.
        is_mapped_ = !is_gpu_ && keeps_packed();
        const std::set<std::string> smaller = is_gpu_ ? std::set<std::string>{"fp16", "bf16", "fp8"} : std::set<std::string>{"int8"};
        for (const auto& [name, spec] : manifest_.components) is_small_ |= smaller.count(spec.precision) > 0;
    }

    Prediction of(std::int64_t images, std::int64_t lanes) const {
        Prediction found = predict(manifest_, images, lanes, is_gpu_, backend_);
        if (is_mapped_) found.loaded = 0;
        return found;
    }

    // EngineError where `needed` clearly has no room; a warning where it is tight.
    void judge(const std::string& what, const Prediction& needed, const Available& available) const {
        if (needed.total() <= kEasily * static_cast<double>(available.bytes)) return;
        const std::string count = needed.images > 1 ? std::to_string(needed.images) + " images" : "1 image";
        const std::string text =
            what + " needs about " + gigabytes(needed.total()) + " of memory (" +
            (needed.loaded > 0 ? "weights " + gigabytes(needed.loaded) + ", " : "") + "runs of " + count +
            in_lanes(needed.lanes) + " " + gigabytes(needed.runs) + "), and " + available.of + " has " +
            gigabytes(static_cast<double>(available.bytes)) + " left";
        if (needed.total() < kClearly * static_cast<double>(available.bytes)) return warn(text + ": it may just fit");
        std::vector<std::string> ways;
        if (needed.images > 1) ways.emplace_back("a smaller --max-batch");
        if (needed.lanes > 1) ways.emplace_back("fewer lanes");
        if (needed.loaded > 0 && !is_small_)
            ways.emplace_back(is_gpu_ ? "a bundle built with --fp16" : "a bundle built with --int8");
        if (needed.loaded == 0 && needed.lanes == 1) ways.emplace_back("fewer lanes");
        const std::string advice = ways.empty() ? "free some" : "use " + joined(ways, ", or ");
        throw EngineError(text + "; " + advice + ", or set " + kMemoryVariable + "=none to try all the same.");
    }

    std::int64_t largest() const { return manifest_.max_batch; }

private:
    const Manifest& manifest_;
    bool is_gpu_, is_mapped_, is_small_ = false;  // is_small_: of a precision that was built to be small on that device
    const std::string& backend_;
};

}  // namespace

void require_room(const Bundle& bundle, const LoadRequest& request, std::optional<std::int64_t> images, std::int64_t lanes,
                  const std::filesystem::path& root) {
    const auto available = available_memory(Device::parse(request.device), root);
    if (!available) return;
    const Needs needs(bundle, request);
    const std::string name = bundle.root().string();
    needs.judge(name, needs.of(images.value_or(1), lanes), *available);
    const Prediction largest = needs.of(needs.largest(), lanes);
    const auto left = static_cast<double>(available->bytes);
    if (!images && left < largest.total())
        warn(name + " needs about " + gigabytes(largest.total()) + " for runs of " + std::to_string(largest.images) +
             " images, and " + available->of + " has " + gigabytes(left) + " left: generate fewer at once");
}

void require_room_for_lane(const Bundle& bundle, const LoadRequest& request, const std::filesystem::path& root) {
    const auto available = available_memory(Device::parse(request.device), root);
    if (!available) return;
    const Needs needs(bundle, request);
    Prediction needed = needs.of(1, 1);
    needed.runs = needs.of(1, 2).runs - needed.runs;
    needed.loaded = 0;
    needs.judge("another lane of " + bundle.root().string(), needed, *available);
}

std::int64_t fitting_batch(const Bundle& bundle, const LoadRequest& request, std::int64_t lanes,
                           const std::filesystem::path& root) {
    const auto available = available_memory(Device::parse(request.device), root);
    const Needs needs(bundle, request);
    if (!available) return needs.largest();
    const auto left = static_cast<double>(available->bytes);
    const auto fits = [&](std::int64_t images) { return needs.of(images, lanes).total() <= kEasily * left; };
    std::int64_t found = 1, beyond = needs.largest() + 1;
    while (beyond - found > 1) {
        const std::int64_t middle = found + (beyond - found) / 2;
        (fits(middle) ? found : beyond) = middle;
    }
    if (found < needs.largest())
        warn(bundle.root().string() + " runs in batches of at most " + std::to_string(found) + ", not of " +
             std::to_string(needs.largest()) + ": those need about " + gigabytes(needs.of(needs.largest(), lanes).total()) +
             " of memory" + in_lanes(lanes) + ", and " + available->of + " has " + gigabytes(left) + " left");
    return found;
}

}  // namespace himar::core
