#include "lanes.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "log.h"

namespace himar::service {
namespace {

// The outcomes of jobs; a lane outlives what is unexpected, since the next request may be fine.
std::vector<Outcome> outcomes_of(const Run& run, const Jobs& jobs) {
    std::string sentence;
    try {
        return run(jobs);
    } catch (const std::exception& error) {
        sentence = error.what();
    } catch (...) {
        sentence = "unknown";
    }
    log_event("a lane failed unexpectedly: " + sentence);
    std::vector<Outcome> outcomes(jobs.size());
    for (Outcome& outcome : outcomes) {
        outcome.status = HIMAR_ERROR_INTERNAL;
        outcome.sentence = "the request failed unexpectedly (" + sentence + "); see the log.";
    }
    return outcomes;
}

}  // namespace

Lanes::Lanes(std::vector<Run> runs, const Policy& policy) : policy_(policy) {
    for (Run& run : runs) {
        lanes_.push_back(std::make_unique<Lane>());
        lanes_.back()->run = std::move(run);
    }
    for (const auto& lane : lanes_) lane->thread = std::thread([this, &lane = *lane] { work(lane); });
}

Lanes::~Lanes() {
    close();
    cancel_all(Cancel::kDrain);
    {
        const std::lock_guard<std::mutex> guard(lock_);
        stopping_ = true;
        more_.notify_all();
    }
    for (const auto& lane : lanes_) lane->thread.join();
}

Lanes::Accepted Lanes::submit(const std::shared_ptr<Job>& job) {
    const std::lock_guard<std::mutex> guard(lock_);
    if (closed_) return Accepted::kClosed;
    if (policy_.is_full(waiting_.size(), busy_now())) return Accepted::kFull;
    waiting_.push_back(job);
    more_.notify_all();  // who waits for more to join has to look again
    return Accepted::kYes;
}

bool Lanes::wait(Job& job, Clock::time_point end) {
    std::unique_lock<std::mutex> guard(lock_);
    return job.changed.wait_until(guard, end, [&] { return job.finished || job.cancel != Cancel::kNone; });
}

bool Lanes::wait_for_news(Job& job, Clock::time_point end) {
    std::unique_lock<std::mutex> guard(lock_);
    return job.changed.wait_until(
        guard, end, [&] { return job.finished || job.cancel != Cancel::kNone || !job.shown.empty(); });
}

void Lanes::show(Job& job, std::string found) {
    const std::lock_guard<std::mutex> guard(lock_);
    job.shown.push_back(std::move(found));
    job.changed.notify_all();
}

std::optional<std::string> Lanes::take_shown(Job& job) {
    const std::lock_guard<std::mutex> guard(lock_);
    if (job.shown.empty()) return std::nullopt;
    std::optional<std::string> found(std::move(job.shown.front()));
    job.shown.pop_front();
    return found;
}

bool Lanes::cancel(const std::shared_ptr<Job>& job, Cancel why) {
    const std::lock_guard<std::mutex> guard(lock_);
    if (job->finished || job->cancel != Cancel::kNone) return false;
    const auto place = std::find(waiting_.begin(), waiting_.end(), job);
    if (place != waiting_.end()) waiting_.erase(place);
    give_up(*job, why);
    if (is_idle()) idle_.notify_all();
    return true;
}

void Lanes::close() {
    const std::lock_guard<std::mutex> guard(lock_);
    closed_ = true;
    more_.notify_all();  // nobody joins any more
}

bool Lanes::wait_until_idle(Clock::time_point end) {
    std::unique_lock<std::mutex> guard(lock_);
    return idle_.wait_until(guard, end, [&] { return is_idle(); });
}

void Lanes::cancel_all(Cancel why) {
    const std::lock_guard<std::mutex> guard(lock_);
    for (const auto& job : waiting_) give_up(*job, why);
    waiting_.clear();
    for (const auto& lane : lanes_)
        for (const auto& job : lane->running)
            if (job->cancel == Cancel::kNone) give_up(*job, why);
    if (is_idle()) idle_.notify_all();
}

std::size_t Lanes::waiting() const {
    const std::lock_guard<std::mutex> guard(lock_);
    return waiting_.size();
}

std::size_t Lanes::busy() const {
    const std::lock_guard<std::mutex> guard(lock_);
    return busy_now();
}

void Lanes::work(Lane& lane) {
    std::unique_lock<std::mutex> guard(lock_);
    while (true) {
        Jobs jobs = next(guard);
        if (jobs.empty()) return;
        before_ = jobs.size() > 1 ? waiting_.size() + running_now() : 0;
        lane.running = std::move(jobs);
        for (const auto& job : lane.running) {
            waiting_.erase(std::find(waiting_.begin(), waiting_.end(), job));
            job->started = true;
            job->queued = seconds_since(job->accepted);
        }
        guard.unlock();
        std::vector<Outcome> outcomes = outcomes_of(lane.run, lane.running);
        guard.lock();
        for (std::size_t i = 0; i < outcomes.size(); ++i) {
            Job& job = *lane.running[i];
            job.outcome = std::move(outcomes[i]);
            job.finished = true;
            job.changed.notify_all();
        }
        lane.running.clear();
        if (is_idle()) idle_.notify_all();
    }
}

// The jobs of the next call, which still wait in the queue; none when the lanes stop.
Jobs Lanes::next(std::unique_lock<std::mutex>& guard) {
    const auto free = Clock::now();
    while (true) {
        more_.wait(guard, [&] { return stopping_ || !waiting_.empty(); });
        if (waiting_.empty()) return {};
        std::size_t images = 0;
        for (const auto& lane : lanes_) images += images_of(lane->running);
        Jobs jobs = policy_.choose(waiting_, images);
        const auto begins = policy_.begins(jobs, waiting_.size(), before_, free);
        if (closed_ || begins <= Clock::now()) return jobs;
        more_.wait_until(guard, begins);
    }
}

void Lanes::give_up(Job& job, Cancel why) {
    job.cancel = why;
    if (!job.started) job.queued = seconds_since(job.accepted);
    job.changed.notify_all();
}

// Jobs that run.
std::size_t Lanes::running_now() const {
    std::size_t jobs = 0;
    for (const auto& lane : lanes_) jobs += lane->running.size();
    return jobs;
}

std::size_t Lanes::busy_now() const {
    return static_cast<std::size_t>(
        std::count_if(lanes_.begin(), lanes_.end(), [](const auto& lane) { return !lane->running.empty(); }));
}

}  // namespace himar::service
