// One accepted request on its way through a lane.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <optional>
#include <string>

#include "himar/himar.hpp"

namespace himar::service {

using Clock = std::chrono::steady_clock;

// Why a request was given up; kNone while it was not.
enum class Cancel { kNone, kDisconnect, kTimeout, kDrain };

// What a lane gives for a request: a result, or the status and the sentence of an error.
struct Outcome {
    std::optional<Result> result;
    himar_status status = HIMAR_OK;
    std::string sentence;
};

// Everything below `options` and `accepted` is guarded by the lock of the Lanes that hold the job.
struct Job {
    explicit Job(GenerateOptions what) : options(std::move(what)) {}

    const GenerateOptions options;
    const Clock::time_point accepted = Clock::now();
    std::atomic<Cancel> cancel{Cancel::kNone};  // also read by the lane that runs it
    bool finished = false;
    std::size_t lane = 0;  // that it waits for or runs on
    double queued = 0;     // seconds from acceptance to its start, or to its end when it never started
    Outcome outcome;       // once it is finished
    std::condition_variable changed;
};

// What runs a job on a lane; it must not throw, and should stop soon after `job.cancel` is set.
using Run = std::function<Outcome(const Job& job)>;

// Seconds from `start` to now.
inline double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace himar::service
