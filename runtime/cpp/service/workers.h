// The threads that read requests and write answers.
#pragma once

#include <httplib.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace himar::service {

// All threads are started at once: httplib's own pool ends the program when the system does not give it one.
class Workers final : public httplib::TaskQueue {
public:
    // std::runtime_error when the system gives fewer than `count` threads.
    Workers(std::size_t count, std::size_t most_waiting);
    ~Workers() override { shutdown(); }
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;

    // Queue a connection; false when `most_waiting` wait already.
    bool enqueue(std::function<void()> connection) override;

    // Serve what waits, and wait for the threads.
    void shutdown() override;

private:
    void work();

    const std::size_t most_waiting_;
    std::mutex lock_;
    std::condition_variable more_;
    std::deque<std::function<void()>> waiting_;
    bool stopping_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace himar::service
