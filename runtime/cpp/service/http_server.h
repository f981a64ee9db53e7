// httplib's server, with threads that are all there from the start, and connections that stay open between two requests
// without holding one.
//
// httplib gives a connection a thread for as long as it is open; proxies keep connections open for a minute and more. Here
// a connection without a request is parked: one thread polls all of them, and hands those that have a request, or are
// new, to the workers.
#pragma once

#include <httplib.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace himar::service {

// The threads that read requests and write answers. All are started at once: httplib's own pool ends the program when the system does not give it one.
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

class HttpServer final : public httplib::Server {
public:
    // idle_seconds: that a connection may be parked; 0 closes each after its answer.
    // std::runtime_error when the system has no thread or pipe for it.
    explicit HttpServer(double idle_seconds);
    ~HttpServer() override;
    HttpServer(const HttpServer&) = delete;
    HttpServer& operator=(const HttpServer&) = delete;

    // Where parked connections go when they have a request; it must outlive `end_keeping`.
    void set_workers(Workers& workers) { workers_ = &workers; }

    // What to do with every request that is read, before it is handled.
    void set_setup(std::function<void(httplib::Request&)> setup) { setup_ = std::move(setup); }

    // In the thread of a request, until its answer is written: leave the connection open after it. Without this call it
    // is closed: what is left of a body that nobody read would be taken for the next request.
    void keep_connection();
    static void close_connection();
    static bool keeps_connection();

    // Close what is parked, and park nothing from now on.
    void end_keeping();

private:
    using Clock = std::chrono::steady_clock;
    struct Parked {
        socket_t socket;
        Clock::time_point until;
    };

    bool process_and_close_socket(socket_t socket) override;
    bool answer_one(socket_t socket);  // true when the connection stays open
    void park(socket_t socket);
    void poll_parked();
    void wake();

    const double idle_seconds_;
    std::function<void(httplib::Request&)> setup_;
    Workers* workers_ = nullptr;
    int wake_read_ = -1, wake_write_ = -1;  // a pipe that interrupts the poll
    std::mutex lock_;
    bool ended_ = false;
    std::vector<socket_t> coming_;  // parked since the last poll
    std::deque<Parked> parked_;     // of the polling thread, the longest first
    std::thread poller_;
};

}  // namespace himar::service
