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
#include "http_server.h"
#include "log.h"
#include "page.h"
#include "text.h"

namespace himar::service {
namespace {

using core::joined;
using core::lower;
using core::trimmed;

constexpr const char* kImages = "/v1/images";
constexpr const char* kIdHeader = "X-Request-Id";

// Methods of every path, as an Allow header names them; the page's files have those of "/".
const std::map<std::string, std::string> kAllowed = {
    {"/", "GET, HEAD"}, {kImages, "POST"}, {"/v1/model", "GET, HEAD"}, {"/healthz", "GET, HEAD"}, {"/metrics", "GET, HEAD"}};

// Threads beyond those that wait for lanes: for what is answered at once, as refusals, health and metrics are.
constexpr std::size_t kSpareThreads = 64, kMostConnectionsWaiting = 256;
constexpr std::size_t kMostDiscarded = 8 << 20;
constexpr int kReadSeconds = 5, kWriteSeconds = 30;

std::size_t most_read(const Settings& settings) { return std::max(2 * settings.max_body, kMostDiscarded); }

std::uint64_t random_start() {
    std::random_device device;
    return (std::uint64_t{device()} << 32) | device();
}

struct Body {
    enum class State { kWhole, kTooLarge, kBroken } state = State::kWhole;
    std::string text;  // when it is whole
};

// Read the body. Of one that is longer than `most` the rest is read too, up to `most_discarded` bytes, and dropped: a
// client that is still sending would otherwise meet a closed connection in place of the answer.
Body read_body(const httplib::Request& request, const httplib::ContentReader& reader, std::size_t most,
               std::size_t most_discarded) {
    Body body;
    if (request.has_header("Content-Length") && request.get_header_value_u64("Content-Length") > most_discarded) {
        body.state = Body::State::kTooLarge;
        return body;
    }
    std::size_t size = 0;
    const auto take = [&](const char* data, std::size_t count) {
        size += count;
        if (size <= most)
            body.text.append(data, count);
        else
            body.text = std::string();
        return size <= most_discarded;
    };
    const bool read = request.is_multipart_form_data()
                          ? reader([](const httplib::MultipartFormData&) { return true; }, take)
                          : reader(take);
    if (size > most)
        body.state = Body::State::kTooLarge;
    else if (!read)
        body.state = Body::State::kBroken;
    return body;
}

// True when the headers announce a body: by its length, or in chunks.
bool announces_body(const httplib::Request& request) {
    return request.has_header("Content-Length") ||
           lower(trimmed(request.get_header_value("Transfer-Encoding"))) == "chunked";
}

// True when Content-Type is application/json, with or without parameters.
bool is_json(const httplib::Request& request) {
    const std::string type = request.get_header_value("Content-Type");
    return lower(trimmed(type.substr(0, type.find(';')))) == "application/json";
}

bool is_compressed(const httplib::Request& request) {
    const std::string encoding = lower(trimmed(request.get_header_value("Content-Encoding")));
    return !encoding.empty() && encoding != "identity";
}

// The values of a header of which there may be several, with commas between them.
std::string all_values(const httplib::Request& request, const std::string& name) {
    std::vector<std::string> all;
    for (std::size_t i = 0; i < request.get_header_value_count(name); ++i) all.push_back(request.get_header_value(name, "", i));
    return joined(all, ",");
}

// At most 128 of the characters that need no quoting in a header, a log or a query.
bool is_plain_id(const std::string& text) {
    return !text.empty() && text.size() <= 128 &&
           text.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == std::string::npos;
}

// Whether the request leaves nothing behind on its connection, as far as its method and the answer's status tell.
bool is_over(const httplib::Request& request, int status) {
    const bool malformed = status == 400 || status == 414 || status == 416 || status == 500;
    const bool reads = request.method == "GET" || request.method == "HEAD" || request.method == "OPTIONS";
    return reads && !malformed && !request.has_header("Content-Length") && !request.has_header("Transfer-Encoding");
}

// Whether the client wants the connection closed, or speaks a version that closes it.
bool wants_close(const httplib::Request& request) {
    const std::string wanted = lower(all_values(request, "Connection"));
    return request.version != "HTTP/1.1" || wanted.find("close") != std::string::npos;
}

std::string cut(const std::string& text) { return text.size() <= 100 ? text : text.substr(0, 100) + "..."; }

std::string too_large(const Settings& settings) {
    return "the body is larger than " + std::to_string(settings.max_body) + " bytes; send a smaller one.";
}

// What httplib itself refused, in a sentence.
Answer answer_of(int status, const httplib::Request& request, const Settings& settings) {
    const auto path = kAllowed.find(page_file(request.path) != nullptr ? "/" : request.path);
    if (path != kAllowed.end() && status != 413 && path->second.find(request.method) == std::string::npos) {
        Answer answer = error_answer(405, cut(request.method) + " is not a method of " + request.path + "; use " +
                                              path->second + ".");
        answer.headers.emplace_back("Allow", path->second);
        return answer;
    }
    switch (status) {
        case 404: {
            std::vector<std::string> known;
            for (const auto& [each, methods] : kAllowed) known.push_back(each);
            return error_answer(404, cut(request.path) + " is not a path of this service; the paths are " + joined(known) + ".");
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
      metrics_(settings.limits.timeout),
      images_(std::move(pipelines), settings.limits, metrics_),
      build_{himar_version(), images_.info().bundle_id, settings.device},
      origins_(settings.allow_origin),
      next_id_(random_start()),
      server_(std::make_unique<HttpServer>(settings.keep_alive)) {
    const std::size_t threads = images_.lanes().count() * (settings.limits.queue + 1) + kSpareThreads;
    workers_ = std::make_unique<Workers>(threads, kMostConnectionsWaiting);
    server_->set_workers(*workers_);
    server_->new_task_queue = [this] { return workers_.release(); };  // once: a server listens once
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
    server_->end_keeping();
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
    add_page(*server_);
    // The status that this returns is not yet the response's.
    server_->set_expect_100_continue_handler([this](const auto& request, auto& response) {
        if (request.get_header_value_u64("Content-Length") <= settings_.max_body) return 100;
        return response.status = 413;
    });
    server_->set_pre_routing_handler([this](const auto& request, auto& response) {
        return answer_preflight(request, response) ? httplib::Server::HandlerResponse::Handled
                                                   : httplib::Server::HandlerResponse::Unhandled;
    });
    server_->set_post_routing_handler([this](const auto& request, auto& response) { finish(request, response); });
    server_->set_exception_handler([](const auto&, auto& response, std::exception_ptr) { response.status = 500; });
    server_->set_error_handler([this](const auto& request, auto& response) { answer_error(request, response); });
}

// A browser's question whether a page may send a request.
bool Service::answer_preflight(const httplib::Request& request, httplib::Response& response) {
    const auto path = kAllowed.find(request.path);
    const std::string origin = request.get_header_value("Origin");
    if (!origins_.any() || request.method != "OPTIONS" || path == kAllowed.end() || origin.empty() ||
        !request.has_header("Access-Control-Request-Method"))
        return false;
    if (origins_.allows(origin)) {
        response.status = 204;
        for (const auto& [name, value] : preflight_headers(path->second)) response.set_header(name, value);
    } else {
        response.status = 403;
        response.set_content(error_json("pages of '" + cut(origin) + "' may not use this server; start it with "
                                        "--allow-origin for them."),
                             "application/json");
    }
    return true;
}

// What every answer has, whoever made it.
void Service::finish(const httplib::Request& request, httplib::Response& response) {
    if (!response.has_header(kIdHeader)) response.set_header(kIdHeader, id_of(request));
    for (const auto& [name, value] : origins_.headers(request.get_header_value("Origin"))) response.set_header(name, value);
    if (response.status == 204) response.headers.erase("Content-Length");
    if (is_over(request, response.status)) server_->keep_connection();
    response.headers.erase("Keep-Alive");
    if (draining_ || wants_close(request)) HttpServer::close_connection();
    if (!HttpServer::keeps_connection() && !response.has_header("Connection")) response.set_header("Connection", "close");
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
    if (announced && body.state == Body::State::kWhole) server_->keep_connection();
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
    return images_.answer(body.text, all_values(request, "Accept"), request.is_connection_closed);
}

// Called for every answer of 400 and above: fills in those that no handler of ours made.
void Service::answer_error(const httplib::Request& request, httplib::Response& response) {
    if (!response.body.empty()) return;
    send(request, response, answer_of(response.status, request, settings_));
}

std::string Service::id_of(const httplib::Request& request) {
    if (request.get_header_value_count(kIdHeader) == 1)
        if (std::string sent = request.get_header_value(kIdHeader); is_plain_id(sent)) return sent;
    char id[24];
    std::snprintf(id, sizeof id, "%016llx", static_cast<unsigned long long>(next_id_++));
    return id;
}

void Service::send(const httplib::Request& request, httplib::Response& response, const Answer& answer) {
    const std::string id = id_of(request);
    response.status = answer.status;
    response.set_header(kIdHeader, id);
    for (const auto& [name, value] : answer.headers) response.set_header(name, value);
    response.set_content(answer.body, answer.type);
    if (request.path != kImages) return;
    metrics_.answered(answer.status, answer.images);
    log_answer(id, answer.status, answer.images, answer.queued, answer.seconds);
}

}  // namespace himar::service
