#include "bundle/json_reader.h"

#include <limits>

#include "error.h"
#include "text.h"

namespace himar::core {

JsonReader::JsonReader(const Json& value, std::string source, std::string path)
    : value_(&value), source_(std::move(source)), path_(std::move(path)) {
    if (!value.is_object())
        throw BundleError(source_ + ": " + (path_.empty() ? "the manifest" : path_) +
                          " must be a JSON object; build the bundle again.");
}

const Json& JsonReader::get(const std::string& key) const {
    const auto found = value_->find(key);
    if (found == value_->end()) throw BundleError(source_ + " lacks " + at(key) + "; build the bundle again.");
    return *found;
}

bool JsonReader::has(const std::string& key) const {
    const auto found = value_->find(key);
    return found != value_->end() && !found->is_null();
}

void JsonReader::wrong_type(const std::string& key, const Json& value, const char* type) const {
    throw BundleError(source_ + ": " + at(key) + " is " + shown(value) + "; it must be of type " + type + ".");
}

std::string JsonReader::text(const std::string& key) const {
    const Json& value = get(key);
    if (!value.is_string()) wrong_type(key, value, "str");
    return value.get<std::string>();
}

std::int64_t JsonReader::whole(const std::string& key) const {
    const Json& value = get(key);
    if (!value.is_number_integer()) wrong_type(key, value, "int");
    if (value.is_number_unsigned() &&
        value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
        throw BundleError(source_ + ": " + at(key) + " is " + shown(value) + "; it must be at most 2^63-1.");
    return value.get<std::int64_t>();
}

double JsonReader::number(const std::string& key) const {
    const Json& value = get(key);
    if (!value.is_number()) wrong_type(key, value, "float");
    return value.get<double>();
}

std::int64_t JsonReader::positive(const std::string& key, std::int64_t most) const {
    const std::int64_t value = whole(key);
    if (value < 1) throw BundleError(source_ + ": " + at(key) + " is " + std::to_string(value) + "; it must be at least 1.");
    if (value > most)
        throw BundleError(source_ + ": " + at(key) + " is " + std::to_string(value) + "; it must be at most " +
                          std::to_string(most) + ".");
    return value;
}

const Json& JsonReader::list(const std::string& key) const {
    const Json& value = get(key);
    if (!value.is_array()) wrong_type(key, value, "list");
    return value;
}

JsonReader JsonReader::object(const std::string& key) const {
    const Json& value = get(key);
    if (!value.is_object()) wrong_type(key, value, "dict");
    return JsonReader(value, source_, at(key));
}

std::vector<std::pair<std::string, JsonReader>> JsonReader::objects() const {
    std::vector<std::pair<std::string, JsonReader>> found;
    for (const auto& [key, value] : value_->items()) found.emplace_back(key, JsonReader(value, source_, at(key)));
    return found;
}

std::vector<JsonReader> JsonReader::items(const std::string& key) const {
    std::vector<JsonReader> found;
    const Json& values = list(key);
    for (std::size_t i = 0; i < values.size(); ++i)
        found.emplace_back(values[i], source_, at(key) + "[" + std::to_string(i) + "]");
    return found;
}

std::string shown(const Json& value) {
    constexpr std::size_t most = 200;
    if (value.is_string()) return in_quotes(value.get<std::string>());
    std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
    return text.size() <= most ? text : text.substr(0, most) + "…";
}

}  // namespace himar::core
