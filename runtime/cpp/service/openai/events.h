// Answers and events in OpenAI's form.
#pragma once

#include <string>

#include "answer.h"
#include "lanes.h"
#include "openai/generation.h"

namespace himar::service::openai {

constexpr const char* kEvents = "text/event-stream; charset=utf-8";

// A comment: it keeps proxies from closing a connection on which nothing happens.
constexpr const char* kPause = ": no news yet\n\n";

// The answer of a complete result: a JSON object, or the last event of a stream.
Answer generated(const Generation& asked, const Job& job, const Result& result);

// The event of an unfinished image uint8 (1, P, P, 3), the index-th of its stream, from 0.
std::string partial_image(const Generation& asked, std::size_t index, const View<std::uint8_t>& pixels);

// The event of a failure's body: clients take {"error": …} for one whatever it is called.
std::string error_event(const std::string& body);

}  // namespace himar::service::openai
