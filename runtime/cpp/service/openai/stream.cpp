#include "openai/stream.h"

#include <algorithm>
#include <utility>

#include "openai/events.h"
#include "openai/failure.h"
#include "paths.h"

namespace himar::service::openai {
namespace {

constexpr int kClientGone = 499;

}  // namespace

Partials::Partials(const Generation& asked, const himar_pipeline_info& info)
    : asked_(asked), has_stages_(std::string(info.stages).find(", ") != std::string::npos) {}

std::optional<std::string> Partials::operator()(const Progress& step) {
    if (!planned_) {
        // The first stage leaves a rough image; a single one has some after every step.
        const std::int64_t first = has_stages_ ? step.stage_steps : 1, steps = step.total - first;
        const std::int64_t count = std::min<std::int64_t>(asked_.partial_images, steps);
        for (std::int64_t place = 0; place < count; ++place) steps_.insert(first + place * steps / count);
        planned_ = true;
    }
    if (steps_.count(step.done) == 0) return std::nullopt;
    try {
        const View<std::uint8_t> pixels = step.so_far();
        steps_.erase(step.done);  // a request that runs again, alone, does not show it twice
        return partial_image(asked_, made_++, pixels.image(0));
    } catch (const Error&) {  // engines of a single size decode no smaller one
        return std::nullopt;
    }
}

EventStream::EventStream(Images& images, std::shared_ptr<Job> job, const Generation& asked, Gone gone,
                         Clock::duration silence, Ended ended)
    : images_(images),
      job_(std::move(job)),
      asked_(asked),
      gone_(std::move(gone)),
      silence_(silence),
      ended_(std::move(ended)) {}

EventStream::~EventStream() {
    images_.abandon(job_);
    try {
        end(kClientGone);
    } catch (const std::exception&) {  // no memory for a line of the log
    }
}

const Answer& EventStream::begin() {
    try {
        first_ = next();
    } catch (...) {
        ended_ = nullptr;  // its failure is an answer, and counted as one
        throw;
    }
    return answer_;
}

bool EventStream::write(const Send& send) {
    try {
        bool is_taken = send(first_);
        while (is_taken && !is_answered_) is_taken = send(next());
        if (!is_taken) throw ClientGone();
    } catch (const ClientGone&) {
        images_.abandon(job_);
        end(kClientGone);
        return false;
    } catch (const Refusal& refusal) {
        send(error_event(refuse(paths::kGenerations, refusal).body));
        end(refusal.status);
        return true;
    } catch (const std::exception& error) {
        send(error_event(failure_json(500, shortened(error.what()), "", "")));
        end(500);
        return true;
    }
    end(answer_.status);
    return true;
}

// The next event; the answer's sets is_answered_.
std::string EventStream::next() {
    Images::News news = images_.next(job_, Clock::now() + silence_, gone_);
    if (news.kind == Images::News::Kind::kShown) return std::move(news.shown);
    if (news.kind == Images::News::Kind::kSilence) return kPause;
    images_.wait_for_result(job_, gone_);
    answer_ = images_.encoded(*job_, [&](const Result& made) { return generated(asked_, *job_, made); });
    is_answered_ = true;
    return std::move(answer_.body);
}

void EventStream::end(int status) {
    const Ended ended = std::exchange(ended_, nullptr);
    if (!ended) return;
    if (status != answer_.status) {
        answer_ = Answer();
        answer_.status = status;
    }
    ended(answer_);
}

}  // namespace himar::service::openai
