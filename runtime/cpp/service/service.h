// The HTTP service: its paths, who may ask, what is counted, and the way down.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "images.h"
#include "metrics.h"
#include "openai/models.h"
#include "origins.h"

namespace httplib {
class ContentReader;
struct Request;
struct Response;
}  // namespace httplib

namespace himar::service::openai {
struct Generation;
}

namespace himar::service {

struct Body;
class HttpServer;
class Workers;

struct Settings {
    std::string bundle;  // the folder
    Limits limits;
    std::size_t max_body = 1 << 20;  // bytes
    std::string device;              // for himar_build_info
    double keep_alive = 75;          // seconds that a connection may be idle; 0 closes each after its answer
    std::vector<std::string> allow_origin;  // as origin_of gives them
    std::vector<std::string> tokens;  // of which a request of images or models has to carry one; none: it need not
    std::string root_path;            // what a proxy may put before each path, "" or "/PART…"
};

// A request for images and what became of it, filled in while it is handled.
struct Exchange {
    std::string id, method, path;
    bool takes_chunks;  // it speaks HTTP/1.1
    Clock::time_point start = Clock::now();
    std::shared_ptr<Job> job = nullptr;  // once it is accepted
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

    // Refuse new requests from now on; accepted ones continue.
    void drain();

    // Wait until what was accepted is finished, or until `end`. True when it is.
    bool wait_until_idle(Clock::time_point end) { return images_.lanes().wait_until_idle(end); }

    // Give up what is left, answer it, and stop serving.
    void stop();

private:
    using Get = std::function<Answer(const httplib::Request& request)>;
    using Post = std::function<Answer(const httplib::Request& request, const Body& body, Exchange& exchange)>;

    void add_routes();
    void add_get(const std::string& path, Get handler);
    void add_post(const std::string& path, const std::string& type, Post handler);
    std::size_t most_bytes(const std::string& path) const;  // of a body
    void require_token(const httplib::Request& request) const;
    bool send_to_page(const httplib::Request& request, httplib::Response& response);
    bool answer_preflight(const httplib::Request& request, httplib::Response& response);
    void finish(const httplib::Request& request, httplib::Response& response);
    void answer_error(const httplib::Request& request, httplib::Response& response);
    std::string id_of(const httplib::Request& request);  // the caller's, if it is one plain id; else 16 new digits
    Exchange exchange_of(const httplib::Request& request);
    void send(const Exchange& exchange, httplib::Response& response, const Answer& answer);
    void record(const Exchange& exchange, const Answer& answer);
    Answer generate(const httplib::Request& request, const openai::Generation& asked, Exchange& exchange);

    const Settings settings_;
    Metrics metrics_;
    Images images_;
    const BuildInfo build_;
    const openai::ServedModel model_;
    const Origins origins_;
    std::atomic<bool> draining_{false};
    std::atomic<std::uint64_t> next_id_;
    std::unique_ptr<Workers> workers_;  // until the server has them
    std::unique_ptr<HttpServer> server_;
    std::thread listener_;
};

}  // namespace himar::service
