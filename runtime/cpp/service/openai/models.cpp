#include "openai/models.h"

#include <sys/stat.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "answer.h"
#include "text.h"

namespace himar::service::openai {
namespace {

using Json = nlohmann::ordered_json;

std::string name_of(const std::filesystem::path& folder) {
    std::error_code failed;
    const std::filesystem::path found = std::filesystem::canonical(folder, failed), whole = failed ? folder : found;
    const std::vector<std::string> parts = core::split(whole.parent_path().parent_path().filename().string(), "--");
    if (whole.parent_path().filename() == "snapshots" && parts.size() == 3 && parts[0] == "models")
        return parts[1] + "/" + parts[2];
    return whole.filename().string();
}

Json described(const ServedModel& model) {
    return {{"id", model.name}, {"object", "model"}, {"created", model.created}, {"owned_by", "himar"}};
}

}  // namespace

ServedModel served_model(const std::string& folder, const std::string& bundle_id) {
    struct stat found{};
    const std::string manifest = (std::filesystem::path(folder) / "manifest.json").string();
    const bool is_there = ::stat(manifest.c_str(), &found) == 0;
    return {name_of(folder), bundle_id, is_there ? static_cast<std::int64_t>(found.st_mtime) : 0};
}

std::string models_json(const ServedModel& model) {
    return dumped({{"object", "list"}, {"data", Json::array({described(model)})}});
}

std::string one_model_json(const ServedModel& model) { return dumped(described(model)); }

}  // namespace himar::service::openai
