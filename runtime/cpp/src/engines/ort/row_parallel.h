// Runs of a small network in parts: its rows split among threads, each of which runs the whole graph alone.
//
// The counterpart of himar_runtime/engines/ort/row_parallel.py. An operator of a small network takes a few microseconds, less than its
// threads need to meet. Rows of a head or of the decoder do not depend on each other, so threads meet once per run instead
// of once per operator. Each thread reads all the weights: a network that does not fit into the cores' caches is better
// off with ONNX Runtime's own threads.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "engines/engine.h"

namespace himar::core {

// The tensors whose rows can be split; none when the component's contract does not allow it.
//
// It does when all outputs have one leading axis, and every input either has no dynamic axis, or is of real numbers and
// leads with that axis too. Whole numbers may be a transformer's index lists, which point into other rows.
std::optional<std::set<std::string>> shared_rows(const ComponentSpec& spec);

// Whether a network's rows are to be split among threads: its contract allows it and the cores' caches hold its weights.
bool splits_rows(const ComponentSpec& spec);

// Where to cut `rows` rows for `threads` threads: 0, …, rows. Just {0, rows} where one run is best. positions: the most
// rows of any tensor of the run, each as wide as its last axis.
std::vector<std::int64_t> cuts(const ComponentSpec& spec, std::int64_t rows, std::int64_t positions, int threads);

// The threads of a session that has none of its own: the caller's and those of a pool, shared by all of its engines.
class Workers {
public:
    explicit Workers(int threads) : most_(threads) {}
    ~Workers();
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;

    int threads() const { return most_; }

    // Run part(0) … part(count - 1), shared with the pool's threads; a part for which none is free is the caller's.
    // Returns when all have run; what a part threw comes out then.
    void run(std::size_t count, const std::function<void(std::size_t)>& part);

private:
    struct Job;

    void serve();
    void work(Job& job, std::unique_lock<std::mutex>& lock);

    const int most_;
    std::mutex lock_;
    std::condition_variable wanted_, done_;
    std::deque<Job*> helpers_wanted_;  // a job stands here once for every helper that it can use
    std::vector<std::thread> pool_;    // started when they are first needed
    bool ends_ = false;
};

}  // namespace himar::core
