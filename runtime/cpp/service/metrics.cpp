#include "metrics.h"

namespace himar::service {
namespace {

std::string head(const std::string& name, const std::string& type, const std::string& help) {
    return "# HELP " + name + " " + help + "\n# TYPE " + name + " " + type + "\n";
}

// A label's value, as the text format wants it.
std::string escaped(const std::string& value) {
    std::string text;
    for (const char each : value) {
        if (each == '\\' || each == '"') text += '\\';
        text += each == '\n' ? std::string("\\n") : std::string(1, each);
    }
    return text;
}

const char* name_of(Cancel why) {
    switch (why) {
        case Cancel::kDisconnect: return "disconnect";
        case Cancel::kTimeout: return "timeout";
        default: return "drain";
    }
}

}  // namespace

Metrics::Metrics(double timeout) : request_seconds_(edges_up_to(timeout)), queue_seconds_(edges_up_to(timeout)) {}

void Metrics::answered(int code, std::size_t images) {
    const std::lock_guard<std::mutex> guard(lock_);
    ++codes_[code];
    images_ += images;
}

void Metrics::queued(double seconds) {
    const std::lock_guard<std::mutex> guard(lock_);
    queue_seconds_.observe(seconds);
}

void Metrics::took(double seconds) {
    const std::lock_guard<std::mutex> guard(lock_);
    request_seconds_.observe(seconds);
}

void Metrics::cancelled(Cancel why) {
    const std::lock_guard<std::mutex> guard(lock_);
    ++cancelled_[why];
}

std::string Metrics::text(const BuildInfo& info, std::size_t waiting, std::size_t busy) const {
    const std::lock_guard<std::mutex> guard(lock_);
    std::string page = head("himar_requests_total", "counter", "Answers on /v1/images by HTTP status; 499: client gone.");
    for (const auto& [code, count] : codes_)
        page += "himar_requests_total{code=\"" + std::to_string(code) + "\"} " + std::to_string(count) + "\n";
    page += head("himar_images_total", "counter", "Images answered.");
    page += "himar_images_total " + std::to_string(images_) + "\n";
    page += request_seconds_.text("himar_request_seconds", "Seconds from acceptance to answer.");
    page += queue_seconds_.text("himar_queue_seconds", "Seconds that requests waited for a lane.");
    page += head("himar_queue_length", "gauge", "Requests that wait for a lane.");
    page += "himar_queue_length " + std::to_string(waiting) + "\n";
    page += head("himar_lanes_busy", "gauge", "Lanes that run a request.");
    page += "himar_lanes_busy " + std::to_string(busy) + "\n";
    page += head("himar_cancelled_total", "counter", "Accepted requests that were given up.");
    for (const auto& [why, count] : cancelled_)
        page += std::string("himar_cancelled_total{reason=\"") + name_of(why) + "\"} " + std::to_string(count) + "\n";
    page += head("himar_build_info", "gauge", "What serves.");
    return page + "himar_build_info{version=\"" + escaped(info.version) + "\",bundle=\"" + escaped(info.bundle) +
           "\",device=\"" + escaped(info.device) + "\"} 1\n";
}

}  // namespace himar::service
