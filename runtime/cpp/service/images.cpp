#include "images.h"

#include <algorithm>
#include <cstdio>

#include "answer.h"
#include "batch.h"
#include "request.h"

namespace himar::service {
namespace {

// How often a waiting request looks whether its client is still there.
constexpr auto kLook = std::chrono::milliseconds(50);

Clock::duration duration_of(double seconds) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

std::string shown(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%g", value);
    return text;
}

}  // namespace

Images::Images(std::vector<Pipeline> pipelines, const Limits& limits, Metrics& metrics)
    : limits_(limits),
      metrics_(metrics),
      pipelines_(std::move(pipelines)),
      lanes_(runs(), {pipelines_.size(), limits.queue, limits.batch, duration_of(limits.queue_delay)}) {}

std::vector<Run> Images::runs() {
    std::vector<Run> all;
    for (Pipeline& each : pipelines_) all.push_back([this, &each](const Jobs& jobs) { return run(each, jobs); });
    return all;
}

Answer Images::answer(const std::string& body, const std::string& accept_header, std::shared_ptr<Job>& job,
                      const Gone& gone) {
    Form form;
    job = accept(body, accept_header, form);
    wait_for_result(job, gone);
    return encoded(*job, [&](const Result& made) {
        Answer answer;
        if (form.bare_png) {
            answer.type = "image/png";
            answer.body = png_of(made, 0);
            answer.headers.emplace_back("X-Himar-Seed", std::to_string(job->options.seed));
        } else {
            answer.body = images_json(made, job->options.seed, form.latents, job->queued);
        }
        return answer;
    });
}

void Images::check(const GenerateOptions& options) const {
    try {
        pipeline().check_options(options);
    } catch (const Error& error) {
        throw Refusal(error.status() == HIMAR_ERROR_INPUT ? 400 : 500, error.what());
    }
}

std::shared_ptr<Job> Images::submit(GenerateOptions options, Look look, std::shared_ptr<const Edited> edited) {
    const auto end = Clock::now() + duration_of(limits_.timeout);
    std::string settings =
        edited == nullptr ? pipeline().settings(options)
                          : pipeline().edit_settings(edited->images_view(), edited->masks_view(), options, edited->how);
    auto job = std::make_shared<Job>(std::move(options), std::move(settings), end, std::move(look), std::move(edited));
    switch (lanes_.submit(job)) {
        case Lanes::Accepted::kFull:
            throw Refusal(429,
                          "all lanes are at work and " + std::to_string(limits_.queue * lanes_.count()) +
                              " requests wait; try again later.",
                          Headers{{"Retry-After", "1"}});
        case Lanes::Accepted::kClosed: throw stopping();
        case Lanes::Accepted::kYes: break;
    }
    return job;
}

void Images::wait_for_result(const std::shared_ptr<Job>& job, const Gone& gone) {
    while (!lanes_.wait(*job, std::min(job->end, Clock::now() + kLook))) give_up_if_due(job, gone);
    const Outcome& outcome = job->outcome;
    switch (job->cancel) {
        case Cancel::kDisconnect: throw ClientGone();
        case Cancel::kTimeout: throw timed_out();
        case Cancel::kDrain:
            metrics_.cancelled(Cancel::kDrain);
            throw Refusal(503, "this server is shutting down and could not finish the request; send it to another.");
        case Cancel::kNone: break;
    }
    if (gone()) throw ClientGone();
    if (outcome.late) {
        metrics_.cancelled(Cancel::kTimeout);
        throw timed_out();
    }
    if (!outcome.result) throw Refusal(outcome.status == HIMAR_ERROR_INPUT ? 400 : 500, outcome.sentence);
}

Images::News Images::next(const std::shared_ptr<Job>& job, Clock::time_point until, const Gone& gone) {
    while (!lanes_.wait_for_news(*job, std::min({job->end, until, Clock::now() + kLook}))) {
        give_up_if_due(job, gone);
        if (Clock::now() >= until) return {News::Kind::kSilence, {}};
    }
    if (auto found = lanes_.take_shown(*job)) return {News::Kind::kShown, std::move(*found)};
    return {News::Kind::kSettled, {}};
}

void Images::abandon(const std::shared_ptr<Job>& job) {
    if (lanes_.cancel(job, Cancel::kDisconnect)) metrics_.cancelled(Cancel::kDisconnect);
}

Answer Images::encoded(const Job& job, const std::function<Answer(const Result&)>& encode) {
    const auto start = Clock::now();
    const Outcome& outcome = job.outcome;
    Answer answer = encode(*outcome.result);
    answer.images = outcome.result->labels().size();
    answer.stages = {{"queue", job.queued}};
    answer.stages.insert(answer.stages.end(), outcome.stages.begin(), outcome.stages.end());
    if (outcome.looked > 0) answer.stages.emplace_back("preview", outcome.looked);
    answer.stages.emplace_back("encode", seconds_since(start));
    metrics_.worked(answer.stages);
    return answer;
}

// In the order that a client is told what is wrong.
std::shared_ptr<Job> Images::accept(const std::string& body, const std::string& accepted, Form& form) {
    ImageRequest request = read_image_request(body, limits_.images, info());
    form.latents = request.latents;
    check(request.options);
    if (!form.latents && info().has_decoder == 0)
        throw Refusal(400, "this bundle has no VAE decoder, so it gives no PNG; ask for \"output\": \"latents\".");
    const std::size_t images = request.options.labels.size() + request.options.prompts.size();
    form.bare_png = is_bare(accepted, images, form.latents);
    return submit(std::move(request.options));
}

// Whether to answer with the PNG itself: where it is possible, and preferred to JSON. Refusal 406 when the answer would be
// of a type that is not accepted.
bool Images::is_bare(const std::string& accept, std::size_t images, bool latents) {
    const Accepted accepted = read_accept(accept);
    if (images == 1 && !latents && accepted.png > accepted.json) return true;
    if (accepted.json > 0) return false;
    if (accepted.png == 0)
        throw Refusal(406, "Accept is '" + accept.substr(0, 200) +
                               "'; answers are application/json, or image/png for one image: accept one of them.");
    if (latents) throw Refusal(406, "latents cannot be answered as image/png; accept application/json.");
    throw Refusal(406, "an answer of type image/png holds one image, but " + std::to_string(images) +
                           " are asked for; ask for one, or accept application/json.");
}

void Images::give_up_if_due(const std::shared_ptr<Job>& job, const Gone& gone) {
    const Cancel why = gone() ? Cancel::kDisconnect : Clock::now() >= job->end ? Cancel::kTimeout : Cancel::kNone;
    if (why != Cancel::kNone && lanes_.cancel(job, why)) metrics_.cancelled(why);
}

Refusal Images::timed_out() const {
    return Refusal(504, "no answer within " + shown(limits_.timeout) + " s, so the request was cancelled; ask for fewer images "
                        "or steps, or try again when less is waiting.");
}

std::vector<Outcome> Images::run(Pipeline& pipeline, const Jobs& jobs) {
    for (const auto& job : jobs) metrics_.queued(job->queued);
    metrics_.called(jobs.size(), images_of(jobs));
    return run_together(pipeline, jobs, [this](Job& job, std::string found) { lanes_.show(job, std::move(found)); });
}

}  // namespace himar::service
