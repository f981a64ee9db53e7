#include "lanes.h"

#include <algorithm>

namespace himar::service {

Lanes::Lanes(std::vector<Run> runs, std::size_t most_waiting) : most_waiting_(most_waiting) {
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
        for (const auto& lane : lanes_) lane->more.notify_all();
    }
    for (const auto& lane : lanes_) lane->thread.join();
}

Lanes::Accepted Lanes::submit(const std::shared_ptr<Job>& job) {
    const std::lock_guard<std::mutex> guard(lock_);
    if (closed_) return Accepted::kClosed;
    const auto least = std::min_element(lanes_.begin(), lanes_.end(),
                                        [](const auto& a, const auto& b) { return a->load() < b->load(); });
    if ((*least)->load() > most_waiting_) return Accepted::kFull;
    job->lane = static_cast<std::size_t>(least - lanes_.begin());
    (*least)->queue.push_back(job);
    (*least)->more.notify_one();
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
    auto& queue = lanes_[job->lane]->queue;
    const auto place = std::find(queue.begin(), queue.end(), job);
    if (place != queue.end()) queue.erase(place);
    give_up(*job, why);
    if (waiting_now() + busy_now() == 0) idle_.notify_all();
    return true;
}

void Lanes::close() {
    const std::lock_guard<std::mutex> guard(lock_);
    closed_ = true;
}

bool Lanes::wait_until_idle(Clock::time_point end) {
    std::unique_lock<std::mutex> guard(lock_);
    return idle_.wait_until(guard, end, [&] { return waiting_now() + busy_now() == 0; });
}

void Lanes::cancel_all(Cancel why) {
    const std::lock_guard<std::mutex> guard(lock_);
    for (const auto& lane : lanes_) {
        for (const auto& job : lane->queue) give_up(*job, why);
        lane->queue.clear();
        if (lane->running != nullptr && lane->running->cancel == Cancel::kNone) give_up(*lane->running, why);
    }
    if (waiting_now() + busy_now() == 0) idle_.notify_all();
}

std::size_t Lanes::waiting() const {
    const std::lock_guard<std::mutex> guard(lock_);
    return waiting_now();
}

std::size_t Lanes::busy() const {
    const std::lock_guard<std::mutex> guard(lock_);
    return busy_now();
}

void Lanes::work(Lane& lane) {
    std::unique_lock<std::mutex> guard(lock_);
    while (true) {
        lane.more.wait(guard, [&] { return stopping_ || !lane.queue.empty(); });
        if (lane.queue.empty()) return;
        lane.running = std::move(lane.queue.front());
        lane.queue.pop_front();
        Job& job = *lane.running;
        job.queued = seconds_since(job.accepted);
        guard.unlock();
        Outcome outcome = lane.run(job);
        guard.lock();
        job.outcome = std::move(outcome);
        job.finished = true;
        job.changed.notify_all();
        lane.running.reset();
        if (waiting_now() + busy_now() == 0) idle_.notify_all();
    }
}

void Lanes::give_up(Job& job, Cancel why) {
    job.cancel = why;
    if (lanes_[job.lane]->running.get() != &job) job.queued = seconds_since(job.accepted);
    job.changed.notify_all();
}

std::size_t Lanes::waiting_now() const {
    std::size_t sum = 0;
    for (const auto& lane : lanes_) sum += lane->queue.size();
    return sum;
}

std::size_t Lanes::busy_now() const {
    return static_cast<std::size_t>(
        std::count_if(lanes_.begin(), lanes_.end(), [](const auto& lane) { return lane->running != nullptr; }));
}

}  // namespace himar::service
