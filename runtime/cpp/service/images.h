// POST /v1/images, without HTTP: from a body to an answer, by way of the lanes.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "accept.h"
#include "himar/himar.hpp"
#include "lanes.h"
#include "metrics.h"

namespace himar::service {

struct Answer {
    int status = 200;
    std::string type = "application/json", body;
    std::vector<std::pair<std::string, std::string>> headers;
    std::size_t images = 0;
    double queued = 0, seconds = 0;  // that it waited for a lane; from acceptance to now
};

// The answer of an error: {"error": sentence}.
Answer error_answer(int status, const std::string& sentence);

struct Limits {
    std::size_t images = 64;  // of a request
    std::size_t queue = 16;   // waiting requests per lane
    double timeout = 60;      // seconds from acceptance to answer
};

class Images {
public:
    // At least one pipeline, each a lane; `metrics` must outlive this.
    Images(std::vector<Pipeline> pipelines, const Limits& limits, Metrics& metrics);

    // Answer a request, waiting for it; any number of threads at once. `gone` says whether the client disconnected: then the
    // request is given up, and the answer is 499.
    // accept: the header of that name.
    Answer answer(const std::string& body, const std::string& accept, const std::function<bool()>& gone);

    himar_pipeline_info info() const { return pipelines_.front().info(); }
    Lanes& lanes() { return lanes_; }

private:
    struct Form {  // of an answer
        bool latents = false, bare_png = false;
    };

    std::shared_ptr<Job> accept(const std::string& body, const std::string& accepted, Form& form);
    static bool is_bare(const std::string& accept, std::size_t images, bool latents);
    void give_up_if_due(const std::shared_ptr<Job>& job, Clock::time_point end, const std::function<bool()>& gone);
    Answer finished(Job& job, Form form);
    Outcome run(Pipeline& pipeline, const Job& job);

    const Limits limits_;
    Metrics& metrics_;
    std::vector<Pipeline> pipelines_;
    Lanes lanes_;  // last: its threads use the others
};

}  // namespace himar::service
