#include "workers.h"

#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace himar::service {

Workers::Workers(std::size_t count, std::size_t most_waiting) : most_waiting_(most_waiting) {
    threads_.reserve(count);
    try {
        while (threads_.size() < count) threads_.emplace_back([this] { work(); });
    } catch (const std::system_error& error) {
        const std::size_t given = threads_.size();
        shutdown();
        throw std::runtime_error("the system gives " + std::to_string(given) + " of the " + std::to_string(count) +
                                 " threads that --lanes and --queue ask for (" + error.code().message() +
                                 "); use fewer lanes or a smaller queue.");
    }
}

bool Workers::enqueue(std::function<void()> connection) {
    const std::lock_guard<std::mutex> guard(lock_);
    if (waiting_.size() >= most_waiting_) return false;
    waiting_.push_back(std::move(connection));
    more_.notify_one();
    return true;
}

void Workers::shutdown() {
    {
        const std::lock_guard<std::mutex> guard(lock_);
        stopping_ = true;
        more_.notify_all();
    }
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
}

void Workers::work() {
    std::unique_lock<std::mutex> guard(lock_);
    while (true) {
        more_.wait(guard, [&] { return stopping_ || !waiting_.empty(); });
        if (waiting_.empty()) return;
        {
            const std::function<void()> connection = std::move(waiting_.front());
            waiting_.pop_front();
            guard.unlock();
            connection();
        }
        guard.lock();
    }
}

}  // namespace himar::service
