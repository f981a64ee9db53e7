// A stream: an image's unfinished states and the image itself as events, however slowly the client reads them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "answer.h"
#include "images.h"
#include "openai/generation.h"

namespace himar::service::openai {

// Makes the unfinished images that a stream shows; called in the lane's thread after every step.
//
// The first shows the earliest rough image there is, of Hi-MAR the pivots of phase low; others follow evenly. A model of
// fewer steps gives fewer.
class Partials {
public:
    // info: of the model.
    Partials(const Generation& asked, const himar_pipeline_info& info);

    // The event of a step after which an image is shown; nothing of another, or where it cannot be decoded.
    std::optional<std::string> operator()(const Progress& step);

private:
    const Generation asked_;
    const bool has_stages_;  // several
    std::set<std::int64_t> steps_;  // after which an image is still to be shown
    bool planned_ = false;
    std::size_t made_ = 0;
};

class EventStream final : public Streaming {
public:
    // Called once, when the stream has ended: its status, or the one that its failure would have had, or 499 of a client
    // that has gone; with the image, how many, and its stages.
    using Ended = std::function<void(const Answer& answer)>;

    // The stream of a job whose look is Partials. images must outlive it, `gone` its `write`. silence: after which a comment
    // keeps the connection alive.
    EventStream(Images& images, std::shared_ptr<Job> job, const Generation& asked, Gone gone, Clock::duration silence,
                Ended ended);
    ~EventStream() override;  // gives the job up if the stream has not ended

    // Wait for what it begins with; what is known of the image if that is it. Until then a failure has a status of its own:
    // Refusal, ClientGone.
    const Answer& begin();

    bool write(const Send& send) override;

private:
    std::string next();
    void end(int status);

    Images& images_;
    const std::shared_ptr<Job> job_;
    const Generation asked_;
    const Gone gone_;
    const Clock::duration silence_;
    Ended ended_;  // none once it was called
    std::string first_;
    Answer answer_;
    bool is_answered_ = false;
};

}  // namespace himar::service::openai
