#include "service.h"

#include <httplib.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <new>
#include <random>
#include <stdexcept>

#include "answer.h"
#include "http_body.h"
#include "log.h"
#include "workers.h"

namespace himar::service {
namespace {

constexpr const char* kImages = "/v1/images";
constexpr const char* kIdHeader = "X-Request-Id";

// Methods of every path, as an Allow header names them.
const std::map<std::string, std::string> kAllowed = {
    {kImages, "POST"}, {"/v1/model", "GET, HEAD"}, {"/healthz", "GET, HEAD"}, {"/metrics", "GET, HEAD"}};

// Threads beyond those that wait for lanes: for what is answered at once, as refusals, health and metrics are.
constexpr std::size_t kSpareThreads = 64, kMostConnectionsWaiting = 256;
constexpr std::size_t kMostDiscarded = 8 << 20;
constexpr int kReadSeconds = 5, kWriteSeconds = 30;

std::size_t most_read(const Settings& settings) { return std::max(2 * settings.max_body, kMostDiscarded); }

std::uint64_t random_start() {
    std::random_device device;
    return (std::uint64_t{device()} << 32) | device();
}

std::string cut(const std::string& text) { return text.size() <= 100 ? text : text.substr(0, 100) + "..."; }

std::string too_large(const Settings& settings) {
    return "the body is larger than " + std::to_string(settings.max_body) + " bytes; send a smaller one.";
}

// What httplib itself refused, in a sentence.
Answer answer_of(int status, const httplib::Request& request, const Settings& settings) {
    const auto path = kAllowed.find(request.path);
    if (path != kAllowed.end() && status != 413 && path->second.find(request.method) == std::string::npos) {
        Answer answer = error_answer(405, cut(request.method) + " is no method of " + request.path + "; use " +
                                              path->second + ".");
        answer.headers.emplace_back("Allow", path->second);
        return answer;
    }
    switch (status) {
        case 404: {
            std::string known;
            for (const auto& [each, methods] : kAllowed) known += (known.empty() ? "" : ", ") + each;
            return error_answer(404, cut(request.path) + " is no path of this service; the paths are " + known + ".");
        }
        case 413: return error_answer(413, too_large(settings));
        case 414: return error_answer(414, "the request's path is too long.");
        case 416: return error_answer(416, "answers are not cut in ranges; send no Range header.");
        case 500: return error_answer(500, "the service failed; please report it.");
        default: return error_answer(status, "the HTTP request cannot be understood; send it as RFC 9112 says.");
    }
}

}  // namespace

Service::Service(std::vector<Pipeline> pipelines, const Settings& settings)
    : settings_(settings),
      images_(std::move(pipelines), settings.limits, metrics_),
      build_{himar_version(), images_.info().bundle_id, settings.device},
      next_id_(random_start()),
      server_(std::make_unique<httplib::Server>()) {
    const std::size_t threads = images_.lanes().count() * (settings.limits.queue + 1) + kSpareThreads;
    workers_ = std::make_unique<Workers>(threads, kMostConnectionsWaiting);
    server_->new_task_queue = [this] { return workers_.release(); };  // once: a server listens once
    // One request per connection: a kept connection would hold one of the threads while it is idle, and what is left of
    // a refused body would be read as the next request.
    server_->set_keep_alive_max_count(1);
    server_->set_payload_max_length(most_read(settings));
    server_->set_read_timeout(kReadSeconds);
    server_->set_write_timeout(kWriteSeconds);
    server_->set_tcp_nodelay(true);
    // Not httplib's SO_REUSEPORT, with which two services would share a port without a word.
    server_->set_socket_options([](socket_t socket) {
        const int on = 1;
        setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    });
    add_routes();
}

Service::~Service() {
    if (listener_.joinable()) stop();
}

int Service::start(const std::string& host, int port) {
    errno = 0;
    const int bound = port == 0 ? server_->bind_to_any_port(host) : (server_->bind_to_port(host, port) ? port : -1);
    if (bound < 0)
        throw std::runtime_error("himar-serve cannot listen on " + host + ":" + std::to_string(port) +
                                 (errno == 0 ? "" : std::string(": ") + std::strerror(errno)) +
                                 "; give another --host or --port.");
    listener_ = std::thread([this] { server_->listen_after_bind(); });
    server_->wait_until_ready();
    return bound;
}

void Service::drain() {
    draining_ = true;
    images_.lanes().close();
}

void Service::stop() {
    drain();
    images_.lanes().cancel_all(Cancel::kDrain);
    server_->stop();
    listener_.join();  // with the threads that still write answers
}

void Service::add_routes() {
    server_->Post(kImages, [this](const auto& request, auto& response, const httplib::ContentReader& reader) {
        post_images(request, response, reader);
    });
    server_->Get("/v1/model", [this](const auto&, auto& response) {
        response.set_content(model_json(images_.info(), images_.lanes().count()), "application/json");
    });
    server_->Get("/healthz", [this](const auto&, auto& response) {
        response.status = draining_ ? 503 : 200;
        response.set_content(draining_ ? "{\"status\":\"draining\"}" : "{\"status\":\"ok\"}", "application/json");
    });
    server_->Get("/metrics", [this](const auto&, auto& response) {
        response.set_content(metrics_.text(build_, images_.lanes().waiting(), images_.lanes().busy()),
                             "text/plain; version=0.0.4; charset=utf-8");
    });
    // The status that this returns is not yet the response's.
    server_->set_expect_100_continue_handler([this](const auto& request, auto& response) {
        if (request.get_header_value_u64("Content-Length") <= settings_.max_body) return 100;
        return response.status = 413;
    });
    server_->set_post_routing_handler([this](const auto&, auto& response) {
        if (!response.has_header(kIdHeader)) response.set_header(kIdHeader, new_id());
    });
    server_->set_exception_handler([](const auto&, auto& response, std::exception_ptr) { response.status = 500; });
    server_->set_error_handler([this](const auto& request, auto& response) { answer_error(request, response); });
}

void Service::post_images(const httplib::Request& request, httplib::Response& response,
                          const httplib::ContentReader& reader) {
    // A range means nothing for POST, but httplib would answer 416 to one that the images do not reach.
    const_cast<httplib::Request&>(request).ranges.clear();
    Answer answer;
    try {
        answer = answer_images(request, reader);
    } catch (const std::bad_alloc&) {
        answer = error_answer(500, "no memory is left for this request.");
    } catch (const std::exception& error) {
        answer = error_answer(500, error.what());
    }
    send(request, response, answer);
}

Answer Service::answer_images(const httplib::Request& request, const httplib::ContentReader& reader) {
    Body body;
    const bool announced = announces_body(request);
    if (announced) body = read_body(request, reader, settings_.max_body, most_read(settings_));
    if (draining_) return error_answer(503, "the service is stopping; ask another.");
    if (!is_json(request))
        return error_answer(415, "Content-Type is '" + cut(request.get_header_value("Content-Type")) +
                                     "'; send application/json.");
    if (is_compressed(request))
        return error_answer(415, "Content-Encoding is '" + cut(request.get_header_value("Content-Encoding")) +
                                     "'; send the body as it is.");
    if (!announced)
        return error_answer(411, "the request has no Content-Length; send one, or Transfer-Encoding: chunked.");
    if (body.state == Body::State::kTooLarge) return error_answer(413, too_large(settings_));
    if (body.state == Body::State::kBroken)
        return error_answer(400, "the body does not arrive as its headers announce it.");
    return images_.answer(body.text, wants_png(request), request.is_connection_closed);
}

// Called for every answer of 400 and above: fills in those that no handler of ours made.
void Service::answer_error(const httplib::Request& request, httplib::Response& response) {
    if (!response.body.empty()) return;
    send(request, response, answer_of(response.status, request, settings_));
}

std::string Service::new_id() {
    char id[24];
    std::snprintf(id, sizeof id, "%016llx", static_cast<unsigned long long>(next_id_++));
    return id;
}

void Service::send(const httplib::Request& request, httplib::Response& response, const Answer& answer) {
    const std::string id = new_id();
    response.status = answer.status;
    response.set_header(kIdHeader, id);
    for (const auto& [name, value] : answer.headers) response.set_header(name, value);
    response.set_content(answer.body, answer.type);
    if (request.path != kImages) return;
    metrics_.answered(answer.status, answer.images);
    log_answer(id, answer.status, answer.images, answer.queued, answer.seconds);
}

}  // namespace himar::service
