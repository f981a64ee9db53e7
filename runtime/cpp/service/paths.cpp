#include "paths.h"

#include <utility>
#include <vector>

namespace himar::service::paths {
namespace {

constexpr const char* kRead = "GET, HEAD";

const std::vector<std::pair<std::string, std::string>>& all() {
    static const std::vector<std::pair<std::string, std::string>> paths = {
        {kImages, "POST"}, {kGenerations, "POST"}, {kEdits, "POST"}, {kPage, kRead},  {kModel, kRead},
        {kModels, kRead},  {kHealth, kRead},       {kLive, kRead},   {kReady, kRead}, {kMetrics, kRead}};
    return paths;
}

bool begins_with(const std::string& path, const std::string& start) { return path.rfind(start, 0) == 0; }

bool is_one_model(const std::string& path) { return begins_with(path, std::string(kModels) + "/"); }

}  // namespace

std::optional<std::string> methods(const std::string& path) {
    if (is_one_model(path) || begins_with(path, kPageFiles)) return kRead;
    for (const auto& [known, taken] : all())
        if (path == known) return taken;
    return std::nullopt;
}

bool is_counted(const std::string& path) { return path == kImages || path == kGenerations || path == kEdits; }

bool is_openai(const std::string& path) {
    return path == kGenerations || path == kEdits || path == kModels || is_one_model(path);
}

bool needs_token(const std::string& path) {
    return path != kPage && path != kHealth && path != kLive && path != kReady && path != kMetrics &&
           !begins_with(path, kPageFiles);
}

std::string known() {
    std::string text;
    for (std::size_t i = 0; i < all().size(); ++i)
        text += (i == 0 ? "" : i + 1 == all().size() ? " and " : ", ") + all()[i].first;
    return text;
}

bool is_root(const std::string& text) {
    const std::string allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-/";
    return text.size() > 1 && text.front() == '/' && text.back() != '/' && text.find("//") == std::string::npos &&
           text.find_first_not_of(allowed) == std::string::npos;
}

std::string without_root(const std::string& path, const std::string& root) {
    const bool has_root = !root.empty() && (path == root || begins_with(path, root + "/"));
    return has_root ? path.substr(root.size()) : path;
}

}  // namespace himar::service::paths
