#include "texts.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "himar/himar.hpp"

using Json = nlohmann::json;

namespace {

std::string read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path.string() + " cannot be read: " + std::strerror(errno) + ".");
    std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (file.bad()) throw std::runtime_error(path.string() + " cannot be read.");
    return text;
}

}  // namespace

std::vector<std::string> read_texts(const std::filesystem::path& path) {
    Json read;
    try {
        read = Json::parse(read_file(path));
    } catch (const Json::parse_error& error) {
        throw std::runtime_error(path.string() + " is not valid JSON in UTF-8 (byte " + std::to_string(error.byte) + ").");
    } catch (const Json::exception&) {
        throw std::runtime_error(path.string() + " holds a number that is too large; write a list of texts.");
    }
    if (!read.is_array()) throw std::runtime_error(path.string() + " holds no JSON list; write the texts as one.");
    std::vector<std::string> texts;
    for (const Json& text : read) {
        if (!text.is_string())
            throw std::runtime_error("prompt " + std::to_string(texts.size()) + " is " + text.dump().substr(0, 200) +
                                     ", which is not text; write it as a string.");
        texts.push_back(text.get<std::string>());
    }
    return texts;
}

void print_tokens(const std::string& folder, const std::vector<std::string>& texts) {
    const himar::Tokenizer tokenizer = himar::Tokenizer::open(folder);
    const himar::Tokens tokens = tokenizer.encode(texts);
    for (const std::size_t place : tokens.truncated)
        std::fprintf(stderr, "text %zu is cut to %lld tokens.\n", place, static_cast<long long>(tokenizer.info().length));
    std::string text = "[\n";
    for (const std::vector<std::int64_t>& row : tokens.rows) {
        if (&row != &tokens.rows.front()) text += ",\n";
        for (std::size_t i = 0; i < row.size(); ++i) text += (i == 0 ? "[" : ", ") + std::to_string(row[i]);
        text += "]";
    }
    std::printf("%s\n]\n", text.c_str());
}
