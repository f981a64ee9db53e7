#include "http_server.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace himar::service {
namespace {

// Beyond this many the longest parked is closed, so that idle clients cannot use up the process's files.
constexpr std::size_t kMostParked = 512;

thread_local bool keep = false;  // the connection of this thread's request

void close_socket(socket_t socket) {
    httplib::detail::shutdown_socket(socket);
    httplib::detail::close_socket(socket);
}

// True when bytes of a request have come, and not the connection's end.
bool has_request(socket_t socket) {
    char byte = 0;
    return ::recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

}  // namespace

Workers::Workers(std::size_t count, std::size_t most_waiting) : most_waiting_(most_waiting) {
    threads_.reserve(count);
    try {
        while (threads_.size() < count) threads_.emplace_back([this] { work(); });
    } catch (const std::system_error& error) {
        const std::size_t given = threads_.size();
        shutdown();
        throw std::runtime_error("the system gives " + std::to_string(given) + " of the " + std::to_string(count) +
                                 " threads that --lanes, --queue and --max-batch ask for (" + error.code().message() +
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

HttpServer::HttpServer(double idle_seconds) : idle_seconds_(idle_seconds) {
    int ends[2];
    if (::pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0)
        throw std::runtime_error(std::string("the system gives no pipe (") + std::strerror(errno) + ").");
    wake_read_ = ends[0], wake_write_ = ends[1];
    try {
        poller_ = std::thread([this] { poll_parked(); });
    } catch (const std::system_error& error) {
        ::close(wake_read_), ::close(wake_write_);
        throw std::runtime_error("the system gives no thread (" + error.code().message() + ").");
    }
}

HttpServer::~HttpServer() {
    end_keeping();
    ::close(wake_read_);
    ::close(wake_write_);
}

void HttpServer::keep_connection() { keep = idle_seconds_ > 0; }

void HttpServer::close_connection() { keep = false; }

bool HttpServer::keeps_connection() { return keep; }

void HttpServer::end_keeping() {
    {
        const std::lock_guard<std::mutex> guard(lock_);
        ended_ = true;
    }
    wake();
    if (poller_.joinable()) poller_.join();
}

bool HttpServer::process_and_close_socket(socket_t socket) {
    // A new connection may send nothing for long, too.
    if (httplib::detail::select_read(socket, 0, 0) == 0 || answer_one(socket))
        park(socket);
    else
        close_socket(socket);
    return true;
}

bool HttpServer::answer_one(socket_t socket) {
    std::string remote, local;
    int remote_port = 0, local_port = 0;
    httplib::detail::get_remote_ip_and_port(socket, remote, remote_port);
    httplib::detail::get_local_ip_and_port(socket, local, local_port);
    httplib::detail::SocketStream stream(socket, read_timeout_sec_, read_timeout_usec_, write_timeout_sec_,
                                         write_timeout_usec_);
    keep = false;
    bool closed = false;
    return process_request(stream, remote, remote_port, local, local_port, false, closed, setup_) && !closed && keep;
}

void HttpServer::park(socket_t socket) {
    {
        const std::lock_guard<std::mutex> guard(lock_);
        if (!ended_) {
            coming_.push_back(socket);
            socket = INVALID_SOCKET;
        }
    }
    if (socket == INVALID_SOCKET)
        wake();
    else
        close_socket(socket);
}

void HttpServer::wake() {
    const char byte = 0;
    [[maybe_unused]] const ssize_t written = ::write(wake_write_, &byte, 1);  // a full pipe wakes too
}

void HttpServer::poll_parked() {
    // A new connection that sends nothing is given as long as an idle one, and a moment where those are closed at once.
    const auto most = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(std::max(idle_seconds_, 5.0)));
    std::vector<pollfd> polled;
    while (true) {
        {
            const std::lock_guard<std::mutex> guard(lock_);
            for (const socket_t socket : coming_) parked_.push_back({socket, Clock::now() + most});
            coming_.clear();
            if (ended_) break;
        }
        for (; parked_.size() > kMostParked; parked_.pop_front()) close_socket(parked_.front().socket);
        polled.assign(1, {wake_read_, POLLIN, 0});
        for (const Parked& each : parked_) polled.push_back({each.socket, POLLIN, 0});
        int wait = -1;
        if (!parked_.empty()) {
            const auto left = parked_.front().until - Clock::now();
            const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(left).count();
            wait = static_cast<int>(std::clamp<decltype(milliseconds + 0)>(milliseconds, 0, 60'000));
        }
        if (::poll(polled.data(), polled.size(), wait) < 0) continue;
        for (char bytes[64]; ::read(wake_read_, bytes, sizeof bytes) > 0;) continue;
        const auto now = Clock::now();
        std::deque<Parked> still;
        for (std::size_t i = 0; i < parked_.size(); ++i) {
            const socket_t socket = parked_[i].socket;
            if (polled[i + 1].revents == 0) {
                if (parked_[i].until > now)
                    still.push_back(parked_[i]);
                else
                    close_socket(socket);
            } else if (!has_request(socket) || !workers_->enqueue([this, socket] { process_and_close_socket(socket); })) {
                close_socket(socket);
            }
        }
        parked_.swap(still);
    }
    for (const Parked& each : parked_) close_socket(each.socket);
    parked_.clear();
}

}  // namespace himar::service
