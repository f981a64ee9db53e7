// Recorded graphs of the loop's segments, one for every combination of shapes (docs/resident-loop.md).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>

#include "device.h"

namespace himar::core {

// What a segment's graph depends on: its component, sizes, and which step a head takes. What changes besides lies in
// device memory.
enum class Segment : std::int64_t { kTransformerLow, kMlpHead, kTransformerHigh, kDitHead, kVaeDecoder };
using SegmentKey = std::array<std::int64_t, 6>;

// A segment runs directly the first time, which also warms its engine up, is recorded the second time and replayed from
// then on. The least recently used graph is given up beyond kMost.
class Replays {
public:
    static constexpr std::size_t kMost = 256;

    // Why engines of the lane cannot be recorded now; empty when they can.
    using Refusal = std::function<std::string()>;

    Replays(ResidentDevice& device, Refusal refusal);

    // Queue a segment. `enqueue` must queue the same for the same key, and depend on nothing else.
    void run(const SegmentKey& key, const std::function<void()>& enqueue);

    // Why segments run without graphs; empty while they do not.
    const std::string& refusal() const { return refused_; }

private:
    struct Entry {
        SegmentKey key;
        std::unique_ptr<Graph> graph;  // null until the second run
    };

    void record(Entry& entry, const std::function<void()>& enqueue);

    ResidentDevice& device_;
    Refusal ask_;
    std::string refused_;
    unsigned epoch_;
    std::list<Entry> entries_;  // the most recently used first
    std::map<SegmentKey, std::list<Entry>::iterator> places_;
};

}  // namespace himar::core
