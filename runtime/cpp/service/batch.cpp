#include "batch.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <new>
#include <utility>

#include "log.h"

namespace himar::service {
namespace {

// The seconds of a result's stages, by their names.
Stages stages_of(const Pipeline& pipeline, const Result& result) {
    const std::vector<std::string> names = stage_names(pipeline.info());
    const std::vector<double> seconds = result.stage_seconds();
    Stages stages;
    for (std::size_t i = 0; i < std::min(names.size(), seconds.size()); ++i) stages.emplace_back(names[i], seconds[i]);
    return stages;
}

// One request that has the images of all jobs.
GenerateOptions joined_options(const Jobs& jobs) {
    GenerateOptions options = jobs.front()->options;
    if (jobs.size() == 1) return options;
    options.labels.clear(), options.prompts.clear();
    options.seed = options.first_index = 0;
    for (const auto& job : jobs) {
        const GenerateOptions& one = job->options;
        options.labels.insert(options.labels.end(), one.labels.begin(), one.labels.end());
        options.prompts.insert(options.prompts.end(), one.prompts.begin(), one.prompts.end());
        for (std::size_t place = 0; place < job->images; ++place) {
            options.seeds.push_back(one.seed);
            options.indices.push_back(static_cast<std::uint32_t>(one.first_index + place));
        }
    }
    return options;
}

// The images and masks of all jobs, which are edits.
Edited joined_edits(const Jobs& jobs) {
    Edited all = *jobs.front()->edited;
    for (std::size_t i = 1; i < jobs.size(); ++i) all.append(*jobs[i]->edited);
    return all;
}

Result make(Pipeline& pipeline, const Jobs& jobs, const GenerateOptions& options) {
    if (jobs.front()->edited == nullptr) return pipeline.generate(options);
    const Edited edits = joined_edits(jobs);
    return pipeline.edit(edits.images_view(), edits.masks_view(), options, edits.how);
}

// A job in a call: where its images are, and what is known of it so far.
struct Part {
    Job& job;
    std::int64_t first;
    Outcome outcome{};

    // Whether the job still wants its images. It may be late without anybody having given it up: who waits for it may be
    // busy with its client.
    bool goes_on() {
        if (Clock::now() >= job.end) outcome.late = true;
        return job.cancel == Cancel::kNone && !outcome.late;
    }

    // What the job's look finds at a step, which is of all.
    void look(const Progress& step, bool is_alone, const Show& show) {
        if (job.look == nullptr) return;
        const auto start = Clock::now();
        if (auto found = job.look(is_alone ? step : step.of(first, static_cast<std::int64_t>(job.images)))) {
            outcome.looked += seconds_since(start);
            show(job, std::move(*found));
        }
    }
};

std::vector<Part> parts_of(const Jobs& jobs) {
    std::vector<Part> parts;
    std::size_t first = 0;
    for (const auto& job : jobs) {
        parts.push_back({*job, static_cast<std::int64_t>(first)});
        first += job->images;
    }
    return parts;
}

// Fill the outcomes. What the runtime throws passes through.
void generate(Pipeline& pipeline, const Jobs& jobs, std::vector<Part>& parts, const Show& show) {
    GenerateOptions options = joined_options(jobs);
    options.on_step = [&](const Progress& step) {
        bool any = false;
        for (Part& part : parts) {
            if (!part.goes_on()) continue;
            part.look(step, parts.size() == 1, show);
            any = true;
        }
        return any;
    };
    Result result = make(pipeline, jobs, options);
    if (result.cancelled()) return;
    const Stages stages = stages_of(pipeline, result);
    for (Part& part : parts) {
        part.outcome.stages = stages;
        const auto images = static_cast<std::int64_t>(part.job.images);
        part.outcome.result = parts.size() == 1 ? std::move(result) : result.of(part.first, images);
    }
}

Outcome failure(himar_status status, const std::string& sentence) {
    Outcome outcome;
    outcome.status = status;
    outcome.sentence = sentence;
    return outcome;
}

// What failed, after the exception that is handled.
Outcome failure_now() {
    try {
        throw;
    } catch (const Error& error) {
        return failure(error.status(), error.what());
    } catch (const std::bad_alloc&) {
        return failure(HIMAR_ERROR_MEMORY, "no memory is left for this request.");
    } catch (const std::exception& error) {
        return failure(HIMAR_ERROR_INTERNAL, error.what());
    }
}

}  // namespace

std::vector<Outcome> run_together(Pipeline& pipeline, const Jobs& jobs, const Show& show) {
    std::vector<Part> parts = parts_of(jobs);
    std::vector<Outcome> outcomes;
    try {
        generate(pipeline, jobs, parts, show);
    } catch (...) {
        Outcome failed = failure_now();
        if (jobs.size() == 1) {
            outcomes.push_back(std::move(failed));
            return outcomes;
        }
        log_event("a call with " + std::to_string(jobs.size()) + " requests failed (" + failed.sentence +
                  "); each runs again alone.");
        for (std::size_t i = 0; i < jobs.size(); ++i)
            if (parts[i].goes_on()) parts[i].outcome = std::move(run_together(pipeline, {jobs[i]}, show).front());
    }
    for (Part& part : parts) outcomes.push_back(std::move(part.outcome));
    return outcomes;
}

}  // namespace himar::service
