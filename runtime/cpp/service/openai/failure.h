// Refusals and failures in OpenAI's form, so that its clients raise the right exception and know whether to ask again.
#pragma once

#include <string>

#include "answer.h"

namespace himar::service::openai {

// {"error": {"message", "type", "param", "code"}}; an empty param is null, and so is an empty code of a status that has
// none of its own.
std::string failure_json(int status, const std::string& sentence, const std::string& param, const std::string& code);

// What tells a client whether to send a request again that had this status. OpenAI's client sends again after every 5xx
// unless it is told not to; a request that an engine failed on, or that took too long, would only do so once more.
Headers retry_headers(int status);

}  // namespace himar::service::openai
