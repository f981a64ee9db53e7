// Taking values out of a JSON object by key and type, with errors that say where and what is wrong.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace himar::core {

using Json = nlohmann::ordered_json;  // the first sampling setting is the default, so order counts

// A JSON object; BundleErrors name `source`, the file, and the key. It points into the document it was made of.
class JsonReader {
public:
    JsonReader(const Json& value, std::string source, std::string path);

    std::string text(const std::string& key) const;
    std::int64_t whole(const std::string& key) const;
    double number(const std::string& key) const;          // or a whole number
    std::int64_t positive(const std::string& key, std::int64_t most) const;  // 1 … most
    const Json& list(const std::string& key) const;

    JsonReader object(const std::string& key) const;
    std::vector<std::pair<std::string, JsonReader>> objects() const;       // every value with its key
    std::vector<JsonReader> items(const std::string& key) const;  // the objects of the list at `key`

    bool has(const std::string& key) const;  // there, and not null
    const Json& values() const { return *value_; }
    const std::string& source() const { return source_; }
    const std::string& path() const { return path_; }
    std::string at(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }

private:
    const Json& get(const std::string& key) const;
    [[noreturn]] void wrong_type(const std::string& key, const Json& value, const char* type) const;

    const Json* value_;
    std::string source_, path_;
};

// A value as a sentence shows it: text in single quotes, long values cut off.
std::string shown(const Json& value);

}  // namespace himar::core
