// Lanes: one thread and one bounded queue for each, and the requests that go through them.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "himar/himar.hpp"
#include "stages.h"

namespace himar::service {

using Clock = std::chrono::steady_clock;

// Why a request was given up; kNone while it was not.
enum class Cancel { kNone, kDisconnect, kTimeout, kDrain };

// What a lane gives for a request: a result, or the status and the sentence of an error.
struct Outcome {
    std::optional<Result> result;
    himar_status status = HIMAR_OK;
    std::string sentence;
    Stages stages;      // of a result, the model's stages and decoding with their seconds
    double looked = 0;  // seconds that the job's look took
};

// Looks at a finished step, in the lane's thread, and returns what the client gets of it at once, or nothing.
using Look = std::function<std::optional<std::string>(const Progress&)>;

// One accepted request on its way through a lane. Everything below `cancel` is guarded by the lock of the Lanes that hold
// the job.
struct Job {
    explicit Job(GenerateOptions what, Clock::time_point latest = Clock::time_point::max(), Look at_steps = nullptr)
        : options(std::move(what)), end(latest), look(std::move(at_steps)) {}

    const GenerateOptions options;
    const Clock::time_point accepted = Clock::now(), end;  // its time is up at the end
    const Look look;                                       // none for one that nothing is shown of
    std::atomic<Cancel> cancel{Cancel::kNone};  // also read by the lane that runs it
    bool finished = false;
    std::size_t lane = 0;  // that it waits for or runs on
    double queued = 0;     // seconds from acceptance to its start, or to its end when it never started
    std::deque<std::string> shown;  // what its look has found and nobody has taken
    Outcome outcome;       // once it is finished
    std::condition_variable changed;
};

// What runs a job on a lane; it must not throw, and should stop soon after `job.cancel` is set.
using Run = std::function<Outcome(Job& job)>;

// Seconds from `start` to now.
inline double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

class Lanes {
public:
    enum class Accepted { kYes, kFull, kClosed };

    // One lane per element of `runs`. A lane takes the request it runs and `most_waiting` more.
    Lanes(std::vector<Run> runs, std::size_t most_waiting);

    // Gives up whatever is left (Cancel::kDrain) and waits for the lanes.
    ~Lanes();
    Lanes(const Lanes&) = delete;
    Lanes& operator=(const Lanes&) = delete;

    // Queue a job on the lane that has the fewest, the first of equals.
    Accepted submit(const std::shared_ptr<Job>& job);

    // Wait until the job is finished or cancelled, or until `end`. True when it is one of the two.
    bool wait(Job& job, Clock::time_point end);

    // The same, or until its look has found something that nobody has taken.
    bool wait_for_news(Job& job, Clock::time_point end);

    // Keep what a job's look has found for who waits for it; in the lane's thread.
    void show(Job& job, std::string found);

    // Take the first of what was found; nothing when there is none.
    std::optional<std::string> take_shown(Job& job);

    // Give a job up, unless it is finished or given up: out of its queue at once, or at its next step when it runs.
    // True when this call did it.
    bool cancel(const std::shared_ptr<Job>& job, Cancel why);

    // Take no more jobs.
    void close();

    // Wait until no lane has a job, or until `end`. True when none has.
    bool wait_until_idle(Clock::time_point end);

    // Give up every job.
    void cancel_all(Cancel why);

    std::size_t waiting() const;  // jobs in queues
    std::size_t busy() const;     // lanes that run one
    std::size_t count() const { return lanes_.size(); }

private:
    struct Lane {
        Run run;
        std::deque<std::shared_ptr<Job>> queue;
        std::shared_ptr<Job> running;
        std::condition_variable more;
        std::thread thread;

        std::size_t load() const { return queue.size() + (running != nullptr ? 1 : 0); }
    };

    void work(Lane& lane);
    void give_up(Job& job, Cancel why);
    std::size_t waiting_now() const;
    std::size_t busy_now() const;

    const std::size_t most_waiting_;
    mutable std::mutex lock_;
    std::condition_variable idle_;
    bool closed_ = false, stopping_ = false;
    std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace himar::service
