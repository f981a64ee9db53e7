#include "refusals.h"

#include "openai/failure.h"
#include "paths.h"

namespace himar::service {

Refusal stopping() {
    return Refusal(503, "this server is shutting down; send the request to another.", Headers{{"Connection", "close"}});
}

Answer refuse(const std::string& path, const Refusal& refusal) {
    Answer answer;
    answer.status = refusal.status;
    answer.headers = refusal.headers;
    const std::string sentence = shortened(refusal.what());
    if (paths::is_openai(path)) {
        answer.body = openai::failure_json(refusal.status, sentence, shortened(refusal.param), refusal.code);
        for (const auto& header : openai::retry_headers(refusal.status)) answer.headers.push_back(header);
    } else {
        answer.body = error_json(sentence);
    }
    return answer;
}

}  // namespace himar::service
