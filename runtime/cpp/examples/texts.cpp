#include "texts.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "himar/himar.hpp"
#include "text.h"

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

std::vector<std::string> read_prompts(const std::filesystem::path& path) {
    std::vector<std::string> prompts;
    if (himar::core::lower(path.extension().string()) == ".json") {
        prompts = read_texts(path);
    } else {
        std::string text = read_file(path);
        if (text.rfind("\xEF\xBB\xBF", 0) == 0) text.erase(0, 3);  // a byte-order mark
        for (const std::string& line : himar::core::split(text, "\n"))
            if (std::string prompt = himar::core::trimmed(line, " \t\r\v\f"); !prompt.empty()) prompts.push_back(std::move(prompt));
    }
    if (prompts.empty()) throw std::runtime_error(path.string() + " holds no prompt; write one a line, or a JSON list of texts.");
    return prompts;
}

void warn_truncated(const std::vector<std::size_t>& places, std::int64_t length) {
    constexpr std::size_t most = 20;
    if (places.empty()) return;
    std::string which;
    for (std::size_t i = 0; i < places.size() && i < most; ++i) which += (i == 0 ? "" : ", ") + std::to_string(places[i]);
    if (places.size() > most) which += ", …";
    std::fprintf(stderr, "warning: longer than the %lld tokens that the model takes, so that their ends were cut: prompts %s "
                         "(counted from 0).\n", static_cast<long long>(length), which.c_str());
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
