#include "service.h"

#include <httplib.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <utility>

#include "answer.h"
#include "body.h"
#include "http_server.h"
#include "log.h"
#include "openai/edit.h"
#include "openai/events.h"
#include "openai/generation.h"
#include "openai/stream.h"
#include "page.h"
#include "paths.h"
#include "text.h"
#include "tokens.h"

namespace himar::service {
namespace {

using core::lower;

constexpr const char* kIdHeader = "X-Request-Id";

// Threads beyond those that wait for lanes: for what is answered at once, as refusals, health and metrics are.
constexpr std::size_t kSpareThreads = 64, kMostConnectionsWaiting = 256;
constexpr std::size_t kMostDiscarded = 8 << 20;
constexpr int kReadSeconds = 5, kWriteSeconds = 30;
constexpr int kClientGone = 499;
constexpr auto kSilence = std::chrono::seconds(10);  // a proxy may close a connection on which nothing happens for longer

// Bytes of a body that are read, of one that may have `most`.
std::size_t most_read(std::size_t most) { return std::max(2 * most, kMostDiscarded); }

// Requests that wait or run at most: each has a thread that waits for it.
std::size_t most_accepted(std::size_t lanes, const Limits& limits) {
    const std::size_t waiting = lanes * limits.queue, together = std::min(limits.batch, waiting + lanes);
    return waiting + lanes * together;
}

std::uint64_t random_start() {
    std::random_device device;
    return (std::uint64_t{device()} << 32) | device();
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

Answer json_answer(std::string body, int status = 200) {
    Answer answer;
    answer.status = status;
    answer.body = std::move(body);
    return answer;
}

// What httplib itself refused, in a sentence.
Refusal refusal_of(int status, const httplib::Request& request, std::size_t most_bytes) {
    const std::string path = dumped(cut(request.path));
    const auto methods = paths::methods(request.path);
    if (methods && status != 413 && methods->find(request.method) == std::string::npos)
        return Refusal(405, path + " does not take " + cut(request.method) + "; use " + *methods + ".",
                       Headers{{"Allow", *methods}});
    switch (status) {
        case 404: return Refusal(404, "there is no path " + path + "; there are " + paths::known() + ".");
        case 413: return Refusal(413, too_large(request, most_bytes));
        case 414: return Refusal(414, "the request's path is too long.");
        case 416: return Refusal(416, "answers are not cut in ranges; send no Range header.");
        case 500: return Refusal(500, "the service failed; please report it.");
        default: return Refusal(status, "the HTTP request cannot be understood; send it as RFC 9112 says.");
    }
}

}  // namespace

Service::Service(std::vector<Pipeline> pipelines, const Settings& settings)
    : settings_(settings),
      metrics_(settings.limits.timeout),
      images_(std::move(pipelines), settings.limits, metrics_),
      build_{himar_version(), images_.info().bundle_id, settings.device},
      model_(openai::served_model(settings.bundle, images_.info().bundle_id)),
      origins_(settings.allow_origin),
      next_id_(random_start()),
      server_(std::make_unique<HttpServer>(settings.keep_alive)) {
    workers_ = std::make_unique<Workers>(most_accepted(images_.lanes().count(), settings.limits) + kSpareThreads, kMostConnectionsWaiting);
    server_->set_workers(*workers_);
    server_->new_task_queue = [this] { return workers_.release(); };  // once: a server listens once
    server_->set_payload_max_length(most_read(most_bytes(paths::kEdits)));
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
    add_post(paths::kImages, kJsonType, [this](const httplib::Request& request, const Body& body, Exchange& exchange) {
        return images_.answer(body.text, all_values(request, "Accept"), exchange.job, request.is_connection_closed);
    });
    add_post(paths::kGenerations, kJsonType, [this](const httplib::Request& request, const Body& body, Exchange& exchange) {
        const auto asked = openai::read_generation(body.text, images_.pipeline(), model_, images_.limits().images);
        return generate(request, asked, exchange);
    });
    add_post(paths::kEdits, kFormType, [this](const httplib::Request& request, const Body& body, Exchange& exchange) {
        const auto asked = openai::read_edit(body.parts, images_.pipeline(), model_, images_.limits().images);
        return generate(request, asked, exchange);
    });
    add_get(paths::kModel, [this](const auto&) {
        return json_answer(model_json(images_.pipeline(), model_.name, images_.lanes().count()));
    });
    add_get(paths::kModels, [this](const auto&) { return json_answer(openai::models_json(model_)); });
    add_get(std::string(paths::kModels) + "/(.*)", [this](const httplib::Request& request) {
        const std::string asked = request.path.substr(std::string(paths::kModels).size() + 1);
        if (model_.is_called(asked)) return json_answer(openai::one_model_json(model_));
        throw Refusal(404, "there is no model " + core::in_quotes(asked) + "; this server has " +
                               core::in_quotes(model_.name) + " alone.", "model", "model_not_found");
    });
    add_get(paths::kHealth, [this](const auto&) {
        return draining_ ? json_answer(R"({"status":"draining"})", 503) : json_answer(R"({"status":"ok"})");
    });
    add_get(paths::kLive, [](const auto&) { return json_answer(R"({"live":true})"); });
    add_get(paths::kReady, [this](const auto&) {
        return draining_ ? json_answer(R"({"ready":false})", 503) : json_answer(R"({"ready":true})");
    });
    add_get(paths::kMetrics, [this](const auto&) {
        Answer answer = json_answer(metrics_.text(build_, images_.lanes().waiting(), images_.lanes().busy()));
        answer.type = "text/plain; version=0.0.4; charset=utf-8";
        return answer;
    });
    server_->set_setup([this](httplib::Request& request) {
        request.path = paths::without_root(request.path, settings_.root_path);
        if (request.method == "POST") request.ranges.clear();  // a range means nothing for it, but httplib would answer 416
    });
    add_page(*server_);
    // The status that this returns is not yet the response's.
    server_->set_expect_100_continue_handler([this](const auto& request, auto& response) {
        if (request.get_header_value_u64("Content-Length") <= most_bytes(request.path)) return 100;
        return response.status = 413;
    });
    server_->set_pre_routing_handler([this](const auto& request, auto& response) {
        const bool is_answered = send_to_page(request, response) || answer_preflight(request, response);
        return is_answered ? httplib::Server::HandlerResponse::Handled : httplib::Server::HandlerResponse::Unhandled;
    });
    server_->set_post_routing_handler([this](const auto& request, auto& response) { finish(request, response); });
    server_->set_exception_handler([](const auto&, auto& response, std::exception_ptr) { response.status = 500; });
    server_->set_error_handler([this](const auto& request, auto& response) { answer_error(request, response); });
}

// Who asks for /PART is sent to /PART/, below which the page finds its files; relative, whatever host a proxy has.
bool Service::send_to_page(const httplib::Request& request, httplib::Response& response) {
    if (!request.path.empty() || settings_.root_path.empty()) return false;
    response.set_redirect(settings_.root_path.substr(settings_.root_path.rfind('/') + 1) + "/", 308);
    return true;
}

// A browser's question whether a page may send a request.
bool Service::answer_preflight(const httplib::Request& request, httplib::Response& response) {
    const auto methods = paths::methods(request.path);
    const std::string origin = request.get_header_value("Origin");
    if (!origins_.any() || request.method != "OPTIONS" || !methods || origin.empty() ||
        !request.has_header("Access-Control-Request-Method"))
        return false;
    if (origins_.allows(origin)) {
        response.status = 204;
        for (const auto& [name, value] : preflight_headers(*methods)) response.set_header(name, value);
    } else {
        const Refusal refusal(403, "pages of '" + cut(origin) +
                                       "' may not use this server; start it with --allow-origin for them.");
        response.status = refusal.status;
        response.set_content(refuse(request.path, refusal).body, "application/json");
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

void Service::add_get(const std::string& path, Get handler) {
    server_->Get(path, [this, handler = std::move(handler)](const auto& request, auto& response) {
        Answer answer;
        try {
            require_token(request);
            answer = handler(request);
        } catch (const Refusal& refusal) {
            answer = refuse(request.path, refusal);
        }
        send(exchange_of(request), response, answer);
    });
}

std::size_t Service::most_bytes(const std::string& path) const {
    return path == paths::kEdits ? openai::most_bytes(settings_.max_body, images_.info().image_size) : settings_.max_body;
}

void Service::add_post(const std::string& path, const std::string& type, Post handler) {
    server_->Post(path, [this, type, handler = std::move(handler)](const auto& request, auto& response,
                                                            const httplib::ContentReader& reader) {
        Exchange exchange = exchange_of(request);
        Answer answer;
        try {
            const std::size_t most = most_bytes(request.path);
            const Body body = read_body(request, reader, most, most_read(most));
            if (body.state == Body::State::kWhole) server_->keep_connection();
            require_token(request);
            if (draining_) throw stopping();
            require_body(request, body, type, most);
            answer = handler(request, body, exchange);
        } catch (const Refusal& refusal) {
            answer = refuse(request.path, refusal);
        } catch (const ClientGone&) {
            answer.status = kClientGone;
        } catch (const std::bad_alloc&) {
            answer = refuse(request.path, Refusal(500, "no memory is left for this request."));
        } catch (const std::exception& error) {
            answer = refuse(request.path, Refusal(500, error.what()));
        }
        send(exchange, response, answer);
    });
}

Answer Service::generate(const httplib::Request& request, const openai::Generation& asked, Exchange& exchange) {
    const Gone& gone = request.is_connection_closed;
    if (!asked.stream) {
        exchange.job = images_.submit(asked.options, nullptr, asked.edited);
        images_.wait_for_result(exchange.job, gone);
        const Job& job = *exchange.job;
        return images_.encoded(job, [&](const Result& made) { return openai::generated(asked, job, made); });
    }
    Look look;
    if (asked.partial_images > 0) {
        const auto partials = std::make_shared<openai::Partials>(asked, images_.info());
        look = [partials](const Progress& step) { return (*partials)(step); };
    }
    exchange.job = images_.submit(asked.options, std::move(look), asked.edited);
    const auto stream = std::make_shared<openai::EventStream>(
        images_, exchange.job, asked, gone, kSilence, [this, exchange](const Answer& answer) { record(exchange, answer); });
    Answer answer;
    answer.stages = stream->begin().stages;
    answer.type = openai::kEvents;
    answer.headers = {{"Cache-Control", "no-store"}, {"X-Accel-Buffering", "no"}};
    answer.stream = stream;
    return answer;
}

void Service::require_token(const httplib::Request& request) const {
    if (!paths::needs_token(request.path)) return;
    service::require_token(request.get_header_value("Authorization"), settings_.tokens);
}

// Called for every answer of 400 and above: fills in those that no handler of ours made.
void Service::answer_error(const httplib::Request& request, httplib::Response& response) {
    if (!response.body.empty() || response.status == kClientGone) return;
    Answer answer;
    try {
        require_token(request);
        answer = refuse(request.path, refusal_of(response.status, request, most_bytes(request.path)));
    } catch (const Refusal& refusal) {
        answer = refuse(request.path, refusal);
    }
    send(exchange_of(request), response, answer);
}

std::string Service::id_of(const httplib::Request& request) {
    if (request.get_header_value_count(kIdHeader) == 1)
        if (std::string sent = request.get_header_value(kIdHeader); is_plain_id(sent)) return sent;
    char id[24];
    std::snprintf(id, sizeof id, "%016llx", static_cast<unsigned long long>(next_id_++));
    return id;
}

Exchange Service::exchange_of(const httplib::Request& request) {
    return {id_of(request), request.method, request.path, request.version == "HTTP/1.1"};
}

void Service::send(const Exchange& exchange, httplib::Response& response, const Answer& answer) {
    response.status = answer.status;
    response.set_header(kIdHeader, exchange.id);
    for (const auto& [name, value] : answer.headers)
        if (name == "Connection")
            HttpServer::close_connection();
        else
            response.set_header(name, value);
    if (!answer.stages.empty()) response.set_header("Server-Timing", server_timing(answer.stages));
    if (answer.stream == nullptr) {
        response.set_content(answer.body, answer.type);
        return record(exchange, answer);
    }
    // All in one call: the loop that makes further ones ends without a word when the server stops.
    const auto write = [stream = answer.stream](std::size_t, httplib::DataSink& sink) {
        const bool is_whole = stream->write([&](const std::string& part) { return sink.write(part.data(), part.size()); });
        if (is_whole) sink.done();
        return is_whole;
    };
    if (exchange.takes_chunks)
        response.set_chunked_content_provider(answer.type, write);
    else
        response.set_content_provider(answer.type, write);
}

// Count a request for images, and write its line.
void Service::record(const Exchange& exchange, const Answer& answer) {
    if (!paths::is_counted(exchange.path)) return;
    const Job* const job = exchange.job.get();
    if (job != nullptr && answer.status != kClientGone) metrics_.took(seconds_since(job->accepted));
    log_answer({exchange.id, exchange.method, exchange.path, answer.status, answer.images, job == nullptr ? 0 : job->queued,
                seconds_since(exchange.start), answer.stages});
    metrics_.answered(answer.status, answer.images);  // last: whoever has read the count finds the rest
}

}  // namespace himar::service
