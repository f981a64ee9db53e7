// The served bundle as the one model of OpenAI's list of models.
#pragma once

#include <cstdint>
#include <string>

namespace himar::service::openai {

struct ServedModel {
    std::string name;       // its folder's, or OWNER/NAME of one in the Hub's local cache
    std::string bundle_id;  // which it is called as well
    std::int64_t created;   // seconds since 1970: when its manifest was written

    bool is_called(const std::string& asked) const { return asked == name || asked == bundle_id; }
};

// The model of a bundle's folder.
ServedModel served_model(const std::string& folder, const std::string& bundle_id);

// The JSON bodies of GET /v1/models and /v1/models/NAME.
std::string models_json(const ServedModel& model);
std::string one_model_json(const ServedModel& model);

}  // namespace himar::service::openai
