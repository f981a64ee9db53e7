// Requests for images, without HTTP: from options to a result by way of the lanes, and POST /v1/images.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "accept.h"
#include "answer.h"
#include "himar/himar.hpp"
#include "lanes.h"
#include "metrics.h"
#include "refusals.h"

namespace himar::service {

// Whether the client has disconnected.
using Gone = std::function<bool()>;

struct Limits {
    std::size_t images = 64;  // of a request
    std::size_t queue = 64;   // waiting requests per lane
    double timeout = 60;      // seconds from acceptance to answer
    std::size_t batch = 1;    // most images of requests that run in one call
    double queue_delay = 0.005;  // seconds that a request waits at most for others to join it
};

class Images {
public:
    // At least one pipeline, each a lane; `metrics` must outlive this.
    Images(std::vector<Pipeline> pipelines, const Limits& limits, Metrics& metrics);

    // Any number of threads may call these at once.

    // Answer the body of POST /v1/images, waiting for it. accept: the header of that name. `job` is set once it is accepted.
    // Refusal, ClientGone.
    Answer answer(const std::string& body, const std::string& accept, std::shared_ptr<Job>& job, const Gone& gone);

    // Refusal with the runtime's sentence unless it takes these options.
    void check(const GenerateOptions& options) const;

    // Queue a request that was checked; edited: what an edit begins with. Refusal 429 when all queues are full, 503 when the
    // service ends.
    std::shared_ptr<Job> submit(GenerateOptions options, Look look = nullptr, std::shared_ptr<const Edited> edited = nullptr);

    // Wait until a job has a result. Refusal (504 when its time is up, and what the work met), ClientGone.
    void wait_for_result(const std::shared_ptr<Job>& job, const Gone& gone);

    // What came first: what a job's look found, its end, of which `wait_for_result` tells more, or `until`.
    struct News {
        enum class Kind { kShown, kSettled, kSilence } kind;
        std::string shown;
    };
    News next(const std::shared_ptr<Job>& job, Clock::time_point until, const Gone& gone);

    // Give up a job whose client has gone, unless it has ended.
    void abandon(const std::shared_ptr<Job>& job);

    // The answer that `encode` makes of a result, with the seconds of its stages, which are counted.
    Answer encoded(const Job& job, const std::function<Answer(const Result&)>& encode);

    himar_pipeline_info info() const { return pipelines_.front().info(); }
    const Pipeline& pipeline() const { return pipelines_.front(); }  // for what any thread may ask
    const Limits& limits() const { return limits_; }
    Lanes& lanes() { return lanes_; }

private:
    struct Form {  // of an answer
        bool latents = false, bare_png = false;
    };

    std::shared_ptr<Job> accept(const std::string& body, const std::string& accepted, Form& form);
    static bool is_bare(const std::string& accept, std::size_t images, bool latents);
    void give_up_if_due(const std::shared_ptr<Job>& job, const Gone& gone);
    Refusal timed_out() const;
    std::vector<Run> runs();
    std::vector<Outcome> run(Pipeline& pipeline, const Jobs& jobs);

    const Limits limits_;
    Metrics& metrics_;
    std::vector<Pipeline> pipelines_;
    Lanes lanes_;  // last: its threads use the others
};

}  // namespace himar::service
