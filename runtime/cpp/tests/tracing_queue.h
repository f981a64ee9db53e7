// A queue in the host's memory that behaves like a GPU's to the loop: it records, notes every call and guards its memory.
//
// Only CUDA itself is missing: the loop, its launches, buffers and graph keys are those that run on a GPU.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engines/networks.h"
#include "queue/host/queue.h"

// Runs at once, but does not say so. Recording keeps calls instead of running them.
class TracingQueue final : public himar::core::HostQueue {
public:
    std::vector<std::string> trace;  // every call in order
    unsigned epoch_now = 0;
    std::string refuses_to_record;   // why `record` fails; empty when it does not
    bool is_current = true;          // false, as a user's function may leave it: nothing is queued then

    // Whether every block still stands between its guard bytes.
    bool kept_inside() const;

    long count(const std::string& name) const;  // in the trace

    // Queue any work under a name.
    void queue(const std::string& name, std::function<void()> work);

    bool runs_at_once() const override { return false; }
    void make_current() override { is_current = true; }
    std::shared_ptr<void> allocate(std::size_t bytes) override;
    void upload(void* to, const void* from, std::size_t bytes) override;
    void copy(void* to, const void* from, std::size_t bytes) override;
    void clear(void* address, std::size_t bytes) override;
    void fetch(void* staging, const void* from, std::size_t bytes) override;
    void download(void* to, const void* from, std::size_t bytes) override;
    void launch(const himar::core::Launch& launch) override;
    void synchronize() override;
    std::unique_ptr<himar::core::Mark> mark() override;
    std::unique_ptr<himar::core::Graph> record(const std::function<void()>& enqueue) override;
    std::shared_ptr<Queue> another() const override { return std::make_shared<TracingQueue>(); }
    unsigned epoch() const override { return epoch_now; }

private:
    struct Block;
    using Calls = std::vector<std::function<void()>>;

    void need_current() const;  // std::logic_error

    Calls* recording_ = nullptr;
    std::vector<std::weak_ptr<Block>> blocks_;
};

// The same engines with their runs in `queue`, so that they can be recorded; `refusal` is why they refuse.
himar::core::Networks traced(himar::core::Networks networks, std::shared_ptr<TracingQueue> queue,
                             const std::string& refusal = "");
