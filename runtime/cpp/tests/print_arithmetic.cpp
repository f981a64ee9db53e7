// Prints what the loop's arithmetic gives, as JSON, so that another implementation can be compared bit for bit:
//   plan S N settings [low high] → [phase, index, masked, masked_after, revealed, guidance, halves at each k] of each step;
//                          settings as a recipe has them; low, high: how many positions an edit draws
//   held settings        → {modulated, timesteps} of phase high's head; settings as a recipe has them, of one chain length
//   chain solver n       → {timesteps, table}
//   ranks seed phase n images…
//   edit-ranks seed phase image drawn   → ranks of an edit; drawn: 1 or 0 of each position, as one word
//   drawn P dilation side mask          → positions that an edit draws, 1 or 0; mask: of each pixel, as one word
//   guides S halves drawn               → rows of the table of pivots and placeholders
//   resize given wanted  → weights
//   resized side pixels… → values of an image (P, P, 3)
//   philox seed c0 c1 c2 c3
//   normals seed phase step k image position quad
//   memory bundle images lanes device [backend] → {images, loaded, runs}: bytes that are predicted
//   limits root          → [bytes, whose] that each limit leaves; root holds proc and sys
//   hmar-maps sides…     → {down, up, convolution} of each scale
//   hmar-plan settings sides… → [scale, step, guidance, remasked, halves] of each forward; settings as a recipe has them
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bundle/bundle.h"
#include "bundle/json_reader.h"
#include "families/hi_mar/chain.h"
#include "families/hi_mar/editing.h"
#include "families/hi_mar/schedule.h"
#include "families/hmar/sampling.h"
#include "families/resize.h"
#include "memory/available.h"
#include "memory/prediction.h"
#include "queue/host/queue.h"

using namespace himar::core;
using namespace himar::core::hi_mar;

namespace {

Json plan_of(int count, char** a) {
    std::optional<DrawnCounts> drawn;
    if (count == 5) drawn = DrawnCounts{std::atoll(a[3]), std::atoll(a[4])};
    const Json values = Json::parse(a[2]);
    const Sampling sampling = read_sampling(JsonReader(values, "settings", ""));
    Json steps = Json::array();
    for (const Step& step : plan(sampling, std::atoll(a[0]), std::atoll(a[1]), drawn))
        steps.push_back({step.is_low ? 0 : 1, step.index, step.masked, step.masked_after, step.revealed, step.guidance,
                         sampling.phase(step.is_low).evaluations.halves(step.diffusion_steps, step.halves())});
    return steps;
}

Json held_of(const std::string& settings) {
    const Json values = Json::parse(settings);
    const Sampling sampling = read_sampling(JsonReader(values, "settings", ""));
    const PhaseSampling high = sampling.phase(false);
    const std::vector<std::int64_t> halves = high.evaluations.halves(high.diffusion_steps, high.guidance == 1 ? 1 : 2);
    const std::vector<long long> timesteps = build_chain(high.solver, high.diffusion_steps).timesteps;
    return {{"modulated", high.evaluations.modulated(halves)}, {"timesteps", high.evaluations.held_timesteps(timesteps, halves)}};
}

Json ranks_of(int count, char** a) {
    const std::uint64_t seed = std::strtoull(a[0], nullptr, 10);
    const auto phase = static_cast<himar::u32>(std::atoi(a[1])), n = static_cast<himar::u32>(std::atoi(a[2]));
    std::vector<himar::ImageOrigin> origins;
    for (int i = 3; i < count; ++i) origins.push_back({seed, static_cast<himar::u32>(std::strtoul(a[i], nullptr, 10)), 0});
    std::vector<himar::u32> ranks(origins.size() * n);
    run_on_host(launches::ranks(ranks.data(), origins.data(), phase, static_cast<himar::u32>(origins.size()), n));
    return ranks;
}

std::vector<std::uint8_t> bits_of(const std::string& word) {
    std::vector<std::uint8_t> bits;
    for (const char each : word) bits.push_back(each == '1' ? 1 : 0);
    return bits;
}

Json edit_ranks_of(char** a) {
    const std::vector<std::uint8_t> drawn = bits_of(a[3]);
    const auto n = static_cast<himar::u32>(drawn.size());
    const himar::ImageOrigin origin{std::strtoull(a[0], nullptr, 10), static_cast<himar::u32>(std::strtoul(a[2], nullptr, 10)), 0};
    std::vector<himar::u32> ranks(n);
    run_on_host(launches::ranks(ranks.data(), &origin, static_cast<himar::u32>(std::atoi(a[1])), 1, n));
    move_drawn_first(ranks, drawn, n);
    return ranks;
}

Json drawn_of(char** a) {
    const std::vector<std::uint8_t> mask = bits_of(a[3]);
    return drawn_positions({nullptr, mask.data(), 1, std::atoll(a[0]), true, std::atoll(a[1])}, std::atoll(a[2]));
}

Json resized_of(int count, char** a) {
    std::vector<std::uint8_t> pixels;
    for (int i = 1; i < count; ++i) pixels.push_back(static_cast<std::uint8_t>(std::atoi(a[i])));
    const std::int64_t side = std::atoll(a[0]);
    const auto given = static_cast<std::int64_t>(std::lround(std::sqrt(static_cast<double>(pixels.size() / 3))));
    std::vector<float> values(static_cast<std::size_t>(3 * side * side));
    write_resized(pixels.data(), given, side, values.data());
    return values;
}

hmar::Scales scales_of(int count, char** a) {
    hmar::Scales scales;
    for (int i = 0; i < count; ++i) scales.sides.push_back(std::atoll(a[i]));
    return scales;
}

Json maps_of(const hmar::Scales& scales) {
    Json maps = Json::array();
    for (std::size_t scale = 0; scale < scales.count(); ++scale)
        maps.push_back({{"down", scales.down(scale)}, {"up", scales.up(scale)}, {"convolution", scales.convolution(scale)}});
    return maps;
}

Json forwards_of(const std::string& settings, const hmar::Scales& scales) {
    const Json values = Json::parse(settings);
    Json forwards = Json::array();
    for (const hmar::Forward& each : hmar::plan(hmar::read_sampling(JsonReader(values, "settings", "")), scales))
        forwards.push_back({each.scale, each.step, each.guidance, each.remasked, each.halves});
    return forwards;
}

// BUNDLE IMAGES LANES DEVICE [BACKEND]: what is predicted.
Json memory_of(int count, char** a) {
    const Bundle bundle = Bundle::open(a[0], true);
    const Prediction found = predict(bundle.manifest(), std::atoll(a[1]), std::atoll(a[2]), Device::parse(a[3]).is_gpu,
                                     count > 4 ? a[4] : "");
    return {{"images", found.images}, {"loaded", found.loaded}, {"runs", found.runs}};
}

// ROOT, which holds proc and sys: what each limit leaves.
Json limits_of(const char* root) {
    Json limits = Json::array();
    for (const Available& each : host_limits(root)) limits.push_back({each.bytes, each.of});
    return limits;
}

himar::u32 word(const char* text) { return static_cast<himar::u32>(std::strtoul(text, nullptr, 10)); }

}  // namespace

int main(int count, char** values) {
    const std::string what = count > 1 ? values[1] : "";
    char** const a = values + 2;
    const int given = count - 2;
    Json out;
    if (what == "plan" && (given == 3 || given == 5)) {
        out = plan_of(given, a);
    } else if (what == "held" && given == 1) {
        out = held_of(a[0]);
    } else if (what == "chain" && given == 2) {
        const Chain chain = build_chain(a[0], std::atoll(a[1]));
        out = {{"timesteps", chain.timesteps}, {"table", chain.table}};
    } else if (what == "ranks" && given > 3) {
        out = ranks_of(given, a);
    } else if (what == "edit-ranks" && given == 4) {
        out = edit_ranks_of(a);
    } else if (what == "drawn" && given == 4) {
        out = drawn_of(a);
    } else if (what == "guides" && given == 3) {
        out = guide_rows(bits_of(a[2]), std::atoll(a[0]), std::atoll(a[1]));
    } else if (what == "resize" && given == 2) {
        out = cubic_weights(std::atoll(a[0]), std::atoll(a[1]));
    } else if (what == "resized" && given > 3) {
        out = resized_of(given, a);
    } else if (what == "philox" && given == 5) {
        const himar::Words words = himar::philox(word(a[1]), word(a[2]), word(a[3]), word(a[4]), std::strtoull(a[0], nullptr, 10));
        out = {words.word[0], words.word[1], words.word[2], words.word[3]};
    } else if (what == "normals" && given == 7) {
        const himar::Quad quad = himar::normals({std::strtoull(a[0], nullptr, 10), word(a[4]), 0}, word(a[1]), word(a[2]),
                                                word(a[3]), word(a[5]), word(a[6]));
        out = {quad.value[0], quad.value[1], quad.value[2], quad.value[3]};
    } else if (what == "memory" && (given == 4 || given == 5)) {
        out = memory_of(given, a);
    } else if (what == "limits" && given == 1) {
        out = limits_of(a[0]);
    } else if (what == "hmar-maps" && given > 1) {
        out = maps_of(scales_of(given, a));
    } else if (what == "hmar-plan" && given > 2) {
        out = forwards_of(a[0], scales_of(given - 1, a + 1));
    } else {
        std::fputs("himar_arithmetic: see the head of print_arithmetic.cpp for its arguments.\n", stderr);
        return 2;
    }
    std::puts(out.dump().c_str());
    return 0;
}
