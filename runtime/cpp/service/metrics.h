// What the service counts, as Prometheus text (version 0.0.4).
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "lanes.h"

namespace himar::service {

// The edges in seconds of requests that may take `timeout`: up to a minute, and on to the first that it does not exceed.
std::vector<double> edges_up_to(double timeout);

// A histogram as Prometheus reads it.
class Histogram {
public:
    // edges: ascending.
    explicit Histogram(std::vector<double> edges);

    // Count a value of at least 0.
    void observe(double value);

    // The lines NAME_bucket (cumulative), NAME_sum and NAME_count, with the lines of help and type before them.
    std::string text(const std::string& name, const std::string& help) const;

    // The same without those two, each with a label, KEY="VALUE".
    std::string lines(const std::string& name, const std::string& label) const;

private:
    std::vector<double> edges_;
    std::vector<std::uint64_t> counts_;  // of each bucket alone; the last is beyond every edge
    double sum_ = 0;
};

// What the service is, for himar_build_info.
struct BuildInfo {
    std::string version, bundle, device;
};

class Metrics {
public:
    // timeout: seconds that a request may take, which the histograms reach.
    explicit Metrics(double timeout);

    // An answer to a request for images; 499 counts a client that went away before it.
    void answered(int code, std::size_t images);
    void called(std::size_t requests, std::size_t images);  // a call of the engines began
    void queued(double seconds);     // a lane took a request that had waited so long
    void took(double seconds);       // an accepted request was answered so long after its acceptance
    void cancelled(Cancel why);      // an accepted request was given up
    void worked(const Stages& stages);  // a request was answered with images, which took so long in each stage

    // The whole page; `waiting` and `busy` are the gauges of now.
    std::string text(const BuildInfo& info, std::size_t waiting, std::size_t busy) const;

private:
    mutable std::mutex lock_;
    std::map<int, std::uint64_t> codes_;
    std::map<Cancel, std::uint64_t> cancelled_{{Cancel::kDisconnect, 0}, {Cancel::kTimeout, 0}, {Cancel::kDrain, 0}};
    std::uint64_t images_ = 0;
    const std::vector<double> edges_;
    Histogram request_seconds_, queue_seconds_, batch_images_, batch_requests_;
    std::map<std::string, Histogram> stage_seconds_;
};

}  // namespace himar::service
