#include "images.h"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <new>

#include "answer.h"
#include "request.h"

namespace himar::service {
namespace {

// How often a waiting request looks whether its client is still there.
constexpr auto kLook = std::chrono::milliseconds(50);

std::string shown(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%g", value);
    return text;
}

// The sentence that `check_options` gives, as a refusal.
void check(const Pipeline& pipeline, const GenerateOptions& options) {
    try {
        pipeline.check_options(options);
    } catch (const Error& error) {
        throw Refusal(error.status() == HIMAR_ERROR_INPUT ? 400 : 500, error.what());
    }
}

std::vector<Run> runs_of(std::vector<Pipeline>& pipelines, const std::function<Outcome(Pipeline&, const Job&)>& run) {
    std::vector<Run> runs;
    for (Pipeline& pipeline : pipelines) runs.push_back([&pipeline, run](const Job& job) { return run(pipeline, job); });
    return runs;
}

}  // namespace

Answer error_answer(int status, const std::string& sentence) {
    Answer answer;
    answer.status = status;
    answer.body = error_json(sentence);
    return answer;
}

Images::Images(std::vector<Pipeline> pipelines, const Limits& limits, Metrics& metrics)
    : limits_(limits),
      metrics_(metrics),
      pipelines_(std::move(pipelines)),
      lanes_(runs_of(pipelines_, [this](Pipeline& pipeline, const Job& job) { return run(pipeline, job); }),
             limits.queue) {}

Answer Images::answer(const std::string& body, const std::string& accept_header, const std::function<bool()>& gone) {
    Form form;
    std::shared_ptr<Job> job;
    try {
        job = accept(body, accept_header, form);
    } catch (const Refusal& refusal) {
        Answer answer = error_answer(refusal.status, refusal.what());
        if (refusal.status == 429) answer.headers.emplace_back("Retry-After", "1");
        return answer;
    }
    const auto end = job->accepted + std::chrono::duration_cast<Clock::duration>(
                                         std::chrono::duration<double>(limits_.timeout));
    while (!lanes_.wait(*job, std::min(end, Clock::now() + kLook))) give_up_if_due(job, end, gone);
    Answer answer;
    if (job->cancel == Cancel::kDisconnect || (job->cancel == Cancel::kNone && gone()))
        answer = error_answer(499, "the client disconnected.");
    else
        answer = finished(*job, form);
    answer.queued = job->queued;
    answer.seconds = seconds_since(job->accepted);
    if (answer.status != 499) metrics_.took(answer.seconds);
    return answer;
}

// In the order that a client is told what is wrong.
std::shared_ptr<Job> Images::accept(const std::string& body, const std::string& accepted, Form& form) {
    ImageRequest request = read_image_request(body, limits_.images, info());
    form.latents = request.latents;
    check(pipelines_.front(), request.options);
    if (!form.latents && info().has_decoder == 0)
        throw Refusal(400, "this bundle has no VAE decoder, so it gives no PNG; ask for \"output\": \"latents\".");
    const std::size_t images = request.options.labels.size() + request.options.prompts.size();
    form.bare_png = is_bare(accepted, images, form.latents);
    auto job = std::make_shared<Job>(std::move(request.options));
    switch (lanes_.submit(job)) {
        case Lanes::Accepted::kFull: throw Refusal(429, "every queue is full; ask again in a second.");
        case Lanes::Accepted::kClosed: throw Refusal(503, "the service is stopping; ask another.");
        case Lanes::Accepted::kYes: break;
    }
    return job;
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

void Images::give_up_if_due(const std::shared_ptr<Job>& job, Clock::time_point end, const std::function<bool()>& gone) {
    const Cancel why = gone() ? Cancel::kDisconnect : Clock::now() >= end ? Cancel::kTimeout : Cancel::kNone;
    if (why != Cancel::kNone && lanes_.cancel(job, why)) metrics_.cancelled(why);
}

Answer Images::finished(Job& job, Form form) {
    if (job.cancel == Cancel::kTimeout)
        return error_answer(504, "the request took more than " + shown(limits_.timeout) +
                                     " seconds; ask for fewer images, or again when the service is less busy.");
    if (job.cancel == Cancel::kDrain) {
        metrics_.cancelled(Cancel::kDrain);
        return error_answer(503, "the service stopped before the request was finished; ask another.");
    }
    const Outcome& outcome = job.outcome;
    if (!outcome.result) return error_answer(outcome.status == HIMAR_ERROR_INPUT ? 400 : 500, outcome.sentence);
    Answer answer;
    answer.images = outcome.result->labels().size();
    if (form.bare_png) {
        answer.type = "image/png";
        answer.body = png_of(*outcome.result, 0);
        answer.headers.emplace_back("X-Himar-Seed", std::to_string(job.options.seed));
    } else {
        answer.body = images_json(*outcome.result, job.options.seed, form.latents, job.queued);
    }
    return answer;
}

Outcome Images::run(Pipeline& pipeline, const Job& job) {
    metrics_.queued(job.queued);
    Outcome outcome;
    try {
        GenerateOptions options = job.options;
        options.on_step = [&job](const Progress&) { return job.cancel == Cancel::kNone; };
        outcome.result = pipeline.generate(options);
    } catch (const Error& error) {
        outcome.status = error.status();
        outcome.sentence = error.what();
    } catch (const std::bad_alloc&) {
        outcome.status = HIMAR_ERROR_MEMORY;
        outcome.sentence = "no memory is left for this request.";
    } catch (const std::exception& error) {
        outcome.status = HIMAR_ERROR_INTERNAL;
        outcome.sentence = error.what();
    }
    return outcome;
}

}  // namespace himar::service
