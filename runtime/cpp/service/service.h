// The HTTP service: its paths, refusals before a body is read, and the way down.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "images.h"
#include "metrics.h"

namespace httplib {
class ContentReader;
class Server;
struct Request;
struct Response;
}  // namespace httplib

namespace himar::service {

class Workers;

struct Settings {
    Limits limits;
    std::size_t max_body = 1 << 20;  // bytes
    std::string device;              // for himar_build_info
};

class Service {
public:
    // std::runtime_error when the system does not give the threads that the settings ask for.
    Service(std::vector<Pipeline> pipelines, const Settings& settings);
    ~Service();
    Service(const Service&) = delete;
    Service& operator=(const Service&) = delete;

    // Listen (port 0: any free one) and serve from other threads; returns the port. std::runtime_error when it cannot.
    int start(const std::string& host, int port);

    // Refuse new requests from now on; what is accepted goes on.
    void drain();

    // Wait until what was accepted is finished, or until `end`. True when it is.
    bool wait_until_idle(Clock::time_point end) { return images_.lanes().wait_until_idle(end); }

    // Give up what is left, answer it, and stop serving.
    void stop();

private:
    void add_routes();
    void post_images(const httplib::Request& request, httplib::Response& response, const httplib::ContentReader& reader);
    Answer answer_images(const httplib::Request& request, const httplib::ContentReader& reader);
    void answer_error(const httplib::Request& request, httplib::Response& response);
    std::string new_id();  // 16 hexadecimal digits
    void send(const httplib::Request& request, httplib::Response& response, const Answer& answer);

    const Settings settings_;
    Metrics metrics_;
    Images images_;
    const BuildInfo build_;
    std::atomic<bool> draining_{false};
    std::atomic<std::uint64_t> next_id_;
    std::unique_ptr<Workers> workers_;  // until the server has them
    std::unique_ptr<httplib::Server> server_;
    std::thread listener_;
};

}  // namespace himar::service
