// The service's log: one line per event on stderr, each written in one go.
#pragma once

#include <cstddef>
#include <string>

namespace himar::service {

// "TIME ID STATUS images=N queued=S seconds=S": an answer on /v1/images, TIME in UTC with milliseconds.
void log_answer(const std::string& id, int status, std::size_t images, double queued, double seconds);

// "TIME himar-serve: SENTENCE".
void log_event(const std::string& sentence);

}  // namespace himar::service
