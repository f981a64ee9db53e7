// Requests that are not answered with images: a status and a sentence, in the form of the path that was asked for.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

#include "answer.h"

namespace himar::service {

// A request that is refused, or fails: an HTTP status of 4xx or 5xx, and one sentence.
struct Refusal : std::runtime_error {
    Refusal(int http, const std::string& sentence, Headers more = {})
        : std::runtime_error(sentence), status(http), headers(std::move(more)) {}

    // Of a field, by a word for how it is wrong: OpenAI's form has a place for them.
    Refusal(int http, const std::string& sentence, std::string field, std::string kind)
        : std::runtime_error(sentence), status(http), param(std::move(field)), code(std::move(kind)) {}

    int status;
    Headers headers;  // to be sent with it
    std::string param, code;
};

// Nobody waits for the answer any more.
struct ClientGone {};

// Of a request to a service that takes no more.
Refusal stopping();

// The answer that tells of a refusal.
Answer refuse(const std::string& path, const Refusal& refusal);

}  // namespace himar::service
