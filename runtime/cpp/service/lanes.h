// Lanes: threads that take requests from one bounded queue, and run those together that can share a call of the engines.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "policy.h"

namespace himar::service {

// What runs jobs on a lane and returns their outcomes in order; it should stop soon after the `cancel` of each is set. What it
// throws becomes the failure of all.
using Run = std::function<std::vector<Outcome>(const Jobs& jobs)>;

class Lanes {
public:
    enum class Accepted { kYes, kFull, kClosed };

    // One lane per element of `runs`; policy.lanes says how many that are.
    Lanes(std::vector<Run> runs, const Policy& policy);

    // Gives up whatever is left (Cancel::kDrain) and waits for the lanes.
    ~Lanes();
    Lanes(const Lanes&) = delete;
    Lanes& operator=(const Lanes&) = delete;

    // Queue a job. kFull when as many jobs wait as may, besides those for which a lane is free.
    Accepted submit(const std::shared_ptr<Job>& job);

    // Wait until the job is finished or cancelled, or until `end`. True when it is one of the two.
    bool wait(Job& job, Clock::time_point end);

    // The same, or until its look has found something that nobody has taken.
    bool wait_for_news(Job& job, Clock::time_point end);

    // Keep what a job's look has found for who waits for it; in the lane's thread.
    void show(Job& job, std::string found);

    // Take the first of what was found; nothing when there is none.
    std::optional<std::string> take_shown(Job& job);

    // Give a job up, unless it is finished or given up: out of the queue at once, or at its next step when it runs, unless
    // others run with it. True when this call did it.
    bool cancel(const std::shared_ptr<Job>& job, Cancel why);

    // Take no more jobs.
    void close();

    // Wait until no lane has a job, or until `end`. True when none has.
    bool wait_until_idle(Clock::time_point end);

    // Give up every job.
    void cancel_all(Cancel why);

    std::size_t waiting() const;  // jobs in the queue
    std::size_t busy() const;     // lanes that run some
    std::size_t count() const { return lanes_.size(); }

private:
    struct Lane {
        Run run;
        Jobs running;
        std::thread thread;
    };

    void work(Lane& lane);
    Jobs next(std::unique_lock<std::mutex>& guard);
    void give_up(Job& job, Cancel why);
    std::size_t busy_now() const;
    std::size_t running_now() const;
    bool is_idle() const { return waiting_.empty() && busy_now() == 0; }

    const Policy policy_;
    mutable std::mutex lock_;
    std::condition_variable more_, idle_;
    std::deque<std::shared_ptr<Job>> waiting_;  // the oldest first
    std::size_t before_ = 0;                    // jobs that were open during the last call, if that was of several
    bool closed_ = false, stopping_ = false;
    std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace himar::service
