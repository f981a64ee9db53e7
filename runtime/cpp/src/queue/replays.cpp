#include "queue/replays.h"

#include <utility>

#include "error.h"

namespace himar::core {

Replays::Replays(Queue& queue, Refusal refusal)
    : queue_(queue),
      ask_(std::move(refusal)),
      refused_(queue.runs_at_once() ? "everything runs at once" : ask_()),
      epoch_(queue.epoch()) {}

void Replays::replay(const SegmentKey& key, const std::function<void()>& enqueue) {
    if (epoch_ != queue_.epoch()) {
        places_.clear();
        entries_.clear();
        epoch_ = queue_.epoch();
    }
    const auto found = places_.find(key);
    if (found == places_.end()) {
        enqueue();
        entries_.push_front({key, nullptr});
        places_[key] = entries_.begin();
        if (entries_.size() > kMost) {
            places_.erase(entries_.back().key);
            entries_.pop_back();
        }
        return;
    }
    entries_.splice(entries_.begin(), entries_, found->second);
    Entry& entry = entries_.front();
    if (entry.graph == nullptr) record(entry, enqueue);
    if (entry.graph == nullptr) return enqueue();
    entry.graph->replay();
}

// Where it cannot be recorded, nothing has run, and nothing is recorded from here on.
void Replays::record(Entry& entry, const std::function<void()>& enqueue) {
    try {
        if (std::string why = ask_(); !why.empty()) throw EngineError(why);
        entry.graph = queue_.record(enqueue);
    } catch (const EngineError& error) {
        refused_ = error.what();
    }
}

}  // namespace himar::core
