// An accepted request on its way through a lane, and what comes of it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "edited.h"
#include "himar/himar.hpp"
#include "stages.h"

namespace himar::service {

using Clock = std::chrono::steady_clock;

// Why a request was given up; kNone while it was not.
enum class Cancel { kNone, kDisconnect, kTimeout, kDrain };

// What a lane gives for a request: a result, or the status and the sentence of an error, or neither of one that nobody
// waits for any more.
struct Outcome {
    std::optional<Result> result;
    himar_status status = HIMAR_OK;
    std::string sentence;
    bool late = false;  // its time was up, and it was not given up for that
    Stages stages;      // of a result, the model's stages and decoding with their seconds
    double looked = 0;  // seconds that the job's look took
};

// Looks at a finished step, in the lane's thread, and returns what the client gets of it at once, or nothing.
using Look = std::function<std::optional<std::string>(const Progress&)>;

// Everything below `cancel` is guarded by the lock of the Lanes that hold the job.
struct Job {
    // what: checked. same_settings: equal for jobs that can share a call of the engines.
    // begins_with: of an edit.
    Job(GenerateOptions what, std::string same_settings, Clock::time_point latest = Clock::time_point::max(),
        Look at_steps = nullptr, std::shared_ptr<const Edited> begins_with = nullptr)
        : options(std::move(what)),
          settings(std::move(same_settings)),
          edited(std::move(begins_with)),
          end(latest),
          look(std::move(at_steps)) {}

    const GenerateOptions options;
    const std::string settings;
    const std::shared_ptr<const Edited> edited;  // null where whole images are made
    const std::size_t images = edited != nullptr ? static_cast<std::size_t>(edited->count)
                                                 : options.labels.size() + options.prompts.size();
    const Clock::time_point accepted = Clock::now(), end;  // its time is up at the end
    const Look look;                                       // none for one that nothing is shown of
    std::atomic<Cancel> cancel{Cancel::kNone};             // also read by the lane that runs it
    bool started = false, finished = false;
    double queued = 0;  // seconds from acceptance to its start, or to its end when it never started
    std::deque<std::string> shown;  // what its look has found and nobody has taken
    Outcome outcome;                // once it is finished
    std::condition_variable changed;
};

using Jobs = std::vector<std::shared_ptr<Job>>;

// Images of all jobs.
inline std::size_t images_of(const Jobs& jobs) {
    std::size_t images = 0;
    for (const auto& job : jobs) images += job->images;
    return images;
}

// Seconds from `start` to now.
inline double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace himar::service
