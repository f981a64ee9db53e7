// Which waiting requests run together, and when a free lane waits for more of them. The rules are those of Python's service
// (runtime/himar_runtime/service/policy.py), which `himar-export plan` simulates.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>

#include "job.h"

namespace himar::service {

struct Policy {
    std::size_t lanes = 1;      // calls of the engines that run at once
    std::size_t queue = 16;     // requests that may wait per lane
    std::size_t max_batch = 1;  // most images of requests that run together; 1 joins none
    Clock::duration delay{0};   // that a free lane waits at most for others to join a request, after a call of several

    // Requests that may wait while all lanes are at work.
    std::size_t most_waiting() const { return lanes * queue; }

    // Whether a request must be refused, given those that wait and the lanes that work.
    bool is_full(std::size_t waiting, std::size_t busy) const { return waiting >= most_waiting() + lanes - busy; }

    // The jobs of the next call, of at least one that waits, the oldest first: the oldest, and in their order those that can
    // join it. Jobs join that have the same settings. One that does not fit is passed over for smaller ones behind it: it
    // waits no longer for that, as it comes first in a later call. A lane takes no more than its share of all images, or
    // others would be idle, or busy with a few again and again; one job of more than that runs alone. running: images in
    // the calls of other lanes.
    Jobs choose(const std::deque<std::shared_ptr<Job>>& waiting, std::size_t running) const;

    // When the call of the chosen jobs begins; in the past where nobody is waited for. Clients that were answered together
    // often ask again together. None are waited for when as many wait as there were, nor when the batch is full.
    // before: jobs that were open during the last call if it had several, else 0. free: since when the lane has had nothing
    // to do.
    Clock::time_point begins(const Jobs& chosen, std::size_t waiting, std::size_t before, Clock::time_point free) const;
};

}  // namespace himar::service
