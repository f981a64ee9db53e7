// The service's log: one line per event on stderr, each written in one go, as text or as JSON.
#pragma once

#include <cstddef>
#include <string>

#include "stages.h"

namespace himar::service {

// A request for images and what became of it.
struct Answered {
    std::string id, method, path;
    int status;
    std::size_t images;
    double queued, seconds;  // that it waited for a lane; from the arrival of its head to its answer
    Stages stages;           // where there were images
};

// Write lines of JSON from now on. For a program's start.
void log_as_json();

// "TIME ID STATUS images=N queued=S seconds=S", TIME in UTC with milliseconds.
void log_answer(const Answered& answered);

// "TIME himar-serve: SENTENCE".
void log_event(const std::string& sentence);
void log_warning(const std::string& sentence);

}  // namespace himar::service
