#include "text/vocabulary.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <unordered_set>

#include "error.h"
#include "text.h"

namespace himar::core::text {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;  // sorted by key: a vocabulary is found in by name

constexpr double kMostTokens = 1'000'000;  // transformers writes 1e30 where a folder sets no length
constexpr int kMostDepth = 64;

std::string read_file(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw BundleError(path.string() + " cannot be read: " + std::strerror(errno) + ".");
    std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (file.bad()) throw BundleError(path.string() + " cannot be read.");
    return text;
}

Json read_object(const fs::path& path) {
    const auto check_depth = [&](int depth, Json::parse_event_t, Json&) {
        if (depth > kMostDepth) throw BundleError(path.string() + " is not valid JSON (too deep); fetch it again.");
        return true;
    };
    Json read;
    try {
        read = Json::parse(read_file(path), check_depth);
    } catch (const Json::parse_error& error) {
        throw BundleError(path.string() + " is not valid JSON (byte " + std::to_string(error.byte) + "); fetch it again.");
    } catch (const Json::exception&) {
        throw BundleError(path.string() + " is not valid JSON (a number is too large); fetch it again.");
    }
    if (!read.is_object()) throw BundleError(path.string() + " holds no JSON object; fetch it again.");
    return read;
}

// The object in a file of a folder, empty where there is no such file.
Json object_in(const fs::path& folder, const char* name) {
    return fs::is_regular_file(folder / name) ? read_object(folder / name) : Json::object();
}

// The object at `key`, empty where there is none.
Json inner(const Json& values, const char* key) {
    const auto found = values.find(key);
    return found != values.end() && found->is_object() ? *found : Json::object();
}

// A token that stands as its text, or as an object with its `content`.
std::optional<std::string> token_of(const Json& value) {
    if (value.is_object()) return value.contains("content") ? token_of(value["content"]) : std::nullopt;
    return value.is_string() ? std::optional<std::string>(value.get<std::string>()) : std::nullopt;
}

std::optional<std::string> token_at(const Json& values, const char* key) {
    return values.contains(key) ? token_of(values[key]) : std::nullopt;
}

[[noreturn]] void refuse_merge(const fs::path& path, std::size_t number, const std::string& line) {
    throw BundleError(path.string() + ": merge " + std::to_string(number) + " is " + line +
                      " and not two tokens; fetch the file again.");
}

// Add the two symbols of a line, if it is not empty.
void add_line(const std::string& line, std::size_t number, const fs::path& path, Merges& merges) {
    constexpr const char* space = " \t\r\n\v\f";
    const std::string pair = trimmed(line, space);
    if (pair.empty() || (number == 0 && line.rfind("#version", 0) == 0)) return;
    const std::size_t gap = pair.find_first_of(space);
    const std::string right = gap == std::string::npos ? "" : trimmed(pair.substr(gap), space);
    if (right.empty() || right.find_first_of(space) != std::string::npos) refuse_merge(path, number, in_quotes(line));
    merges.emplace_back(pair.substr(0, gap), right);
}

// The merges of a tokenizer.json: lines, or pairs.
Merges merges_of(const Json& listed, const fs::path& path) {
    Merges merges;
    const auto is_text = [](const Json& part) { return part.is_string(); };
    const Json lines = listed.is_array() ? listed : Json::array({listed});
    for (std::size_t number = 0; number < lines.size(); ++number) {
        const Json& line = lines[number];
        if (line.is_string()) {
            add_line(line.get<std::string>(), number, path, merges);
            continue;
        }
        if (!line.is_array() || line.size() != 2 || !std::all_of(line.begin(), line.end(), is_text))
            refuse_merge(path, number, line.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 200));
        merges.emplace_back(line[0].get<std::string>(), line[1].get<std::string>());
    }
    return merges;
}

// Where ids are not those of the merges, as part of a sentence.
std::string disagreement_of(const Json& ids, const Merges& merges) {
    if (!ids.is_object() || !std::all_of(ids.begin(), ids.end(), [](const Json& id) { return id.is_number_integer(); }))
        return "the vocabulary is no object of tokens and ids";
    for (const char* const token : {kStart, kEnd})
        if (!ids.contains(token)) return std::string("the vocabulary lacks ") + token;
    std::vector<std::string> symbols = symbols_of(merges);
    symbols.insert(symbols.end(), {kStart, kEnd});
    const std::unordered_set<std::string> known(symbols.begin(), symbols.end());
    std::map<std::string, std::size_t> last;  // of a symbol that two merges make, the later id
    if (known.size() != symbols.size())
        for (std::size_t id = 0; id < symbols.size(); ++id) last[symbols[id]] = id;
    for (std::size_t place = 0; place < symbols.size(); ++place) {
        const std::size_t id = last.empty() ? place : last.at(symbols[place]);
        const auto found = ids.find(symbols[place]);
        if (found != ids.end() && *found == id) continue;
        const std::string has = found == ids.end() ? "is missing" : "has the id " + found->dump();
        return in_quotes(symbols[place]) + " " + has + ", and by the merges' order its id is " + std::to_string(id);
    }
    for (const auto& [token, id] : ids.items())
        if (known.count(token) == 0) return in_quotes(token) + ", id " + id.dump() + ", is the result of no merge";
    return "";
}

[[noreturn]] void refuse_vocabulary(const fs::path& source, const std::string& problem) {
    throw BundleError(source.string() + " and its merges are not one CLIP vocabulary: " + problem +
                      "; take both from one CLIP model.");
}

// The merges of a tokenizer.json, held against its own ids.
Merges merges_of_whole(const Json& whole, const fs::path& path) {
    const Json model = inner(whole, "model");
    const auto type = token_at(model, "type"), suffix = token_at(model, "end_of_word_suffix");
    if (type != "BPE" || suffix != kWordEnd)
        throw BundleError(path.string() + " holds a model of type " + (type ? in_quotes(*type) : "None") +
                          " and not CLIP's byte-pair encoding, whose words end in " + kWordEnd +
                          "; give the folder of a CLIP model.");
    Merges merges = merges_of(model.value("merges", Json()), path);
    if (const std::string problem = disagreement_of(model.value("vocab", Json()), merges); !problem.empty())
        refuse_vocabulary(path, problem);
    return merges;
}

Merges merges_in(const fs::path& folder, const Json& whole) {
    const fs::path merges = folder / "merges.txt", vocabulary = folder / "vocab.json";
    if (!fs::is_regular_file(merges)) {
        if (whole.empty())
            throw BundleError(folder.string() + " has neither vocab.json and merges.txt nor tokenizer.json; give the folder "
                              "of a CLIP model.");
        return merges_of_whole(whole, folder / "tokenizer.json");
    }
    Merges read = read_merges(merges);
    if (!fs::is_regular_file(vocabulary)) return read;
    if (const std::string problem = disagreement(vocabulary, read); !problem.empty()) refuse_vocabulary(vocabulary, problem);
    return read;
}

// BundleError for a token that CLIP's vocabulary does not have: of tokenizer.json, of tokenizer_config.json, the padding.
void refuse_added(const fs::path& folder, const Json& whole, const Json& settings, const std::set<std::string>& known) {
    std::vector<std::optional<std::string>> added;
    if (whole.contains("added_tokens"))
        for (const Json& each : whole["added_tokens"]) added.push_back(token_of(each));
    for (const Json& each : inner(settings, "added_tokens_decoder")) added.push_back(token_of(each));
    added.push_back(token_at(settings, "pad_token"));
    for (const auto& token : added)
        if (token && known.count(*token) == 0)
            throw BundleError(folder.string() + " adds the token " + in_quotes(*token) + " to CLIP's vocabulary, and himar "
                              "reads CLIP's alone; give the folder of the model without it.");
    for (const auto& [name, wanted] : {std::pair("bos_token", kStart), std::pair("eos_token", kEnd)})
        if (settings.contains(name) && token_at(settings, name) != wanted)
            throw BundleError(folder.string() + ": " + name + " is " + in_quotes(token_at(settings, name).value_or("")) +
                              ", and CLIP's is " + in_quotes(wanted) + "; give a CLIP folder.");
}

void check_open_clip(const fs::path& folder, const Json& opened) {
    const Json text = inner(inner(opened, "model_cfg"), "text_cfg");
    const std::string rule = token_at(inner(text, "tokenizer_kwargs"), "clean").value_or("lower");
    const std::string other = token_at(text, "hf_tokenizer_name").value_or("");
    if (rule != "lower" || !other.empty())
        throw BundleError((folder / "open_clip_config.json").string() + " names another tokenizer (" +
                          (other.empty() ? rule : other) + ") than open_clip's own with the rule 'lower'; himar reads that "
                          "one alone.");
}

// The tokens of a row, which every file that names them has to give alike; 77 where none does.
std::int64_t length_in(const fs::path& folder, const Json& settings, const Json& opened) {
    const Json config = object_in(folder, "config.json"), of_text = inner(config, "text_config");
    const std::pair<const char*, Json> named[] = {
        {"tokenizer_config.json", settings.value("model_max_length", Json())},
        {"config.json", (of_text.empty() ? config : of_text).value("max_position_embeddings", Json())},
        {"open_clip_config.json", inner(inner(opened, "model_cfg"), "text_cfg").value("context_length", Json())},
    };
    std::set<std::int64_t> lengths;
    std::vector<std::string> said;
    std::int64_t length = 77;
    for (const auto& [file, value] : named) {
        if (!value.is_number() || value.get<double>() > kMostTokens) continue;
        const auto tokens = static_cast<std::int64_t>(std::max(value.get<double>(), 0.0));
        if (lengths.empty()) length = tokens;
        lengths.insert(tokens);
        said.push_back(std::to_string(tokens) + " (" + file + ")");
    }
    if (lengths.size() > 1)
        throw BundleError(folder.string() + ": a prompt has " + joined(said, " and ") + " tokens; take all files from one model.");
    if (length < 2)
        throw BundleError(folder.string() + ": a prompt has " + std::to_string(length) + " tokens; it needs 2 at least, a start "
                          "and an end.");
    return length;
}

}  // namespace

Merges read_merges(const fs::path& path) {
    Merges merges;
    const std::vector<std::string> lines = split(read_file(path), "\n");
    for (std::size_t number = 0; number < lines.size(); ++number) add_line(lines[number], number, path, merges);
    return merges;
}

std::string disagreement(const fs::path& vocabulary, const Merges& merges) {
    return disagreement_of(read_object(vocabulary), merges);
}

Vocabulary read_vocabulary(const fs::path& folder) {
    const Json whole = object_in(folder, "tokenizer.json"), opened = object_in(folder, "open_clip_config.json");
    Vocabulary read;
    read.merges = merges_in(folder, whole);
    Json settings = object_in(folder, "special_tokens_map.json");
    settings.update(object_in(folder, "tokenizer_config.json"));
    std::vector<std::string> symbols = symbols_of(read.merges);
    symbols.insert(symbols.end(), {kStart, kEnd});
    refuse_added(folder, whole, settings, {symbols.begin(), symbols.end()});
    read.repairs_text = !opened.empty() && settings.empty();
    if (read.repairs_text) check_open_clip(folder, opened);
    const std::string pad = token_at(settings, "pad_token").value_or(read.repairs_text ? "!" : kEnd);
    read.padding = std::find(symbols.begin(), symbols.end(), pad) - symbols.begin();
    read.length = length_in(folder, settings, opened);
    return read;
}

}  // namespace himar::core::text
