// Recorded graphs of the loop's segments, one for every combination of shapes (docs/resident-loop.md).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>

#include "queue/queue.h"

namespace himar::core {

// What a segment's graph depends on: its component, sizes, which step a head takes, which of its halves run, and of which
// modulations are made. What changes besides lies in device memory.
using SegmentKey = std::array<std::int64_t, 8>;

// A segment runs directly the first time, which also warms its engine up, is recorded the second time and replayed from
// then on. The least recently used graph is given up beyond kMost. Where the queue runs everything at once, segments
// always run directly.
class Replays {
public:
    static constexpr std::size_t kMost = 256;

    // Why engines on the queue cannot be recorded now; empty when they can.
    using Refusal = std::function<std::string()>;

    Replays(Queue& queue, Refusal refusal);

    // Queue a segment. `enqueue` must queue the same for the same key, and depend on nothing else.
    template <class Enqueue>
    void run(const SegmentKey& key, const Enqueue& enqueue) {
        if (refused_.empty())
            replay(key, enqueue);
        else
            enqueue();
    }

    // Why segments run without graphs; empty while they do not.
    const std::string& refusal() const { return refused_; }

private:
    struct Entry {
        SegmentKey key;
        std::unique_ptr<Graph> graph;  // null until the second run
    };

    void replay(const SegmentKey& key, const std::function<void()>& enqueue);
    void record(Entry& entry, const std::function<void()>& enqueue);

    Queue& queue_;
    Refusal ask_;
    std::string refused_;
    unsigned epoch_;
    std::list<Entry> entries_;  // the most recently used first
    std::map<SegmentKey, std::list<Entry>::iterator> places_;
};

}  // namespace himar::core
