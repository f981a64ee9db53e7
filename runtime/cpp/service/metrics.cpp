#include "metrics.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace himar::service {
namespace {

// Edges of counts of a call.
const std::vector<double> kCounts = {1, 2, 4, 8, 16, 32, 64, 128, 256};

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

std::string shown(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.9g", value);
    return text;
}

}  // namespace

std::vector<double> edges_up_to(double timeout) {
    std::vector<double> edges = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
    for (const double longer : {120, 300, 600, 1800, 3600, 7200, 21600, 86400, 1000000})
        if (edges.back() < timeout) edges.push_back(longer);
    return edges;
}

Histogram::Histogram(std::vector<double> edges) : edges_(std::move(edges)), counts_(edges_.size() + 1) {}

void Histogram::observe(double value) {
    // A bucket holds the values up to and with its edge.
    const auto edge = std::lower_bound(edges_.begin(), edges_.end(), value);
    ++counts_[static_cast<std::size_t>(edge - edges_.begin())];
    sum_ += value;
}

std::string Histogram::text(const std::string& name, const std::string& help) const {
    return head(name, "histogram", help) + lines(name, "");
}

std::string Histogram::lines(const std::string& name, const std::string& label) const {
    const std::string bucket = name + "_bucket{" + label + (label.empty() ? "" : ",") + "le=\"";
    const std::string labels = label.empty() ? " " : "{" + label + "} ";
    std::string lines;
    std::uint64_t so_far = 0;
    for (std::size_t i = 0; i < edges_.size(); ++i) {
        so_far += counts_[i];
        lines += bucket + shown(edges_[i]) + "\"} " + std::to_string(so_far) + "\n";
    }
    so_far += counts_.back();
    return lines + bucket + "+Inf\"} " + std::to_string(so_far) + "\n" + name + "_sum" + labels + shown(sum_) + "\n" + name +
           "_count" + labels + std::to_string(so_far) + "\n";
}

Metrics::Metrics(double timeout)
    : edges_(edges_up_to(timeout)),
      request_seconds_(edges_),
      queue_seconds_(edges_),
      batch_images_(kCounts),
      batch_requests_(kCounts) {}

void Metrics::answered(int code, std::size_t images) {
    const std::lock_guard<std::mutex> guard(lock_);
    ++codes_[code];
    images_ += images;
}

void Metrics::called(std::size_t requests, std::size_t images) {
    const std::lock_guard<std::mutex> guard(lock_);
    batch_requests_.observe(static_cast<double>(requests));
    batch_images_.observe(static_cast<double>(images));
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

void Metrics::worked(const Stages& stages) {
    const std::lock_guard<std::mutex> guard(lock_);
    for (const auto& [stage, seconds] : stages) stage_seconds_.try_emplace(stage, edges_).first->second.observe(seconds);
}

std::string Metrics::text(const BuildInfo& info, std::size_t waiting, std::size_t busy) const {
    const std::lock_guard<std::mutex> guard(lock_);
    std::string page = head("himar_requests_total", "counter", "Requests for images by HTTP status; 499: client gone.");
    for (const auto& [code, count] : codes_)
        page += "himar_requests_total{code=\"" + std::to_string(code) + "\"} " + std::to_string(count) + "\n";
    page += head("himar_images_total", "counter", "Images answered.");
    page += "himar_images_total " + std::to_string(images_) + "\n";
    page += request_seconds_.text("himar_request_seconds", "Seconds from acceptance to answer.");
    page += queue_seconds_.text("himar_queue_seconds", "Seconds that requests waited for a lane.");
    page += head("himar_stage_seconds", "histogram", "Each stage of a request that was answered with images.");
    for (const auto& [stage, seconds] : stage_seconds_)
        page += seconds.lines("himar_stage_seconds", "stage=\"" + escaped(stage) + "\"");
    page += batch_images_.text("himar_batch_images", "Images of one call of the engines.");
    page += batch_requests_.text("himar_batch_requests", "Requests that ran together in one call.");
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
