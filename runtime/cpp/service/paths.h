// The service's paths: the methods of each, which of them are in OpenAI's form, and what a proxy puts before them.
#pragma once

#include <optional>
#include <string>

namespace himar::service::paths {

constexpr const char* kPage = "/";
constexpr const char* kPageFiles = "/page/";  // before the names of the files that the page loads
constexpr const char* kImages = "/v1/images";
constexpr const char* kGenerations = "/v1/images/generations";
constexpr const char* kEdits = "/v1/images/edits";
constexpr const char* kModel = "/v1/model";
constexpr const char* kModels = "/v1/models";
constexpr const char* kHealth = "/healthz";
constexpr const char* kLive = "/v2/health/live";
constexpr const char* kReady = "/v2/health/ready";
constexpr const char* kMetrics = "/metrics";

// What a path takes, for a header; nothing where there is no such path.
std::optional<std::string> methods(const std::string& path);

// Whether requests of a path have a line in the log and are counted.
bool is_counted(const std::string& path);

// Whether a path's answers and refusals are in the form of OpenAI's API.
bool is_openai(const std::string& path);

// Whether a server with --token-file asks for one: not for what says nothing of images, nor for the page itself.
bool needs_token(const std::string& path);

// The paths, for a sentence.
std::string known();

// A prefix of paths, as --root-path takes it: /PART, or several.
bool is_root(const std::string& text);

// A path without the prefix under which a proxy publishes the server, where it has it. Of the prefix alone nothing is left.
std::string without_root(const std::string& path, const std::string& root);

}  // namespace himar::service::paths
