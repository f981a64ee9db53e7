// Any bytes as a prompt, or as a file of a tokenizer's folder: they are read, or refused by an InputError or a BundleError.
// The first line names what the rest is: "text", or a file such as "merges.txt".
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "error.h"
#include "run_corpus.h"
#include "text/tokenizer.h"

namespace fs = std::filesystem;
using namespace himar::core;
using namespace himar::core::text;

namespace {

constexpr std::int64_t kLength = 16;

const Tokenizer& tokenizer() {
    static const Merges merges = {{"r", "e"}, {"re", "d</w>"}, {"t", "w"}, {"tw", "o</w>"}, {"a", "a"}, {"aa", "a</w>"}};
    static const Tokenizer with({merges, kLength, 0, false});
    return with;
}

// Rows are as long as they should be, their ids the vocabulary's, and a prompt's own, whatever stands beside it.
void check_text(std::string_view text) {
    const Rows rows = tokenizer().rows({text, "red", text});
    if (rows.ids.size() != 3 * kLength || rows.sizes[0] < 2 || rows.sizes[0] != rows.sizes[2]) std::abort();
    for (std::size_t place = 0; place < kLength; ++place) {
        const std::int64_t id = rows.ids[place];
        if (id < 0 || id > tokenizer().end() || id != rows.ids[2 * kLength + place]) std::abort();
    }
    if (rows.ids[0] != tokenizer().start() || rows.ids[rows.sizes[0] - 1] != tokenizer().end()) std::abort();
}

// A folder of one file, besides good merges, gone with the object.
class Folder {
public:
    Folder(const std::string& file, std::string_view content) {
        std::string name = (fs::temp_directory_path() / "himar-fuzz-XXXXXX").string();
        if (mkdtemp(name.data()) == nullptr) std::abort();
        path_ = name;
        std::ofstream(path_ / "merges.txt") << "r e\nre d</w>\n";
        if (file == "tokenizer.json") fs::remove(path_ / "merges.txt");
        std::ofstream(path_ / file, std::ios::binary) << content;
    }
    ~Folder() { fs::remove_all(path_); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;

    const fs::path& path() const { return path_; }

private:
    fs::path path_;
};

void check_folder(const fs::path& folder) {
    const Vocabulary read = read_vocabulary(folder);
    if (read.length < 2 || read.padding < 0 || read.padding > read.end()) std::abort();
    if (!read.repairs_text && read.length < 1000) Tokenizer(read).rows({"a red two"});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    const std::size_t end = std::min(input.find('\n'), input.size());
    const std::string what(input.substr(0, end));
    const std::string_view content = input.substr(std::min(end + 1, input.size()));
    try {
        if (what == "text")
            check_text(content);
        else if (what == "merges.txt" || what == "vocab.json" || what == "tokenizer.json" || what == "config.json" ||
                 what == "tokenizer_config.json" || what == "special_tokens_map.json" || what == "open_clip_config.json")
            check_folder(Folder(what, content).path());
        else
            return 0;
    } catch (const InputError&) {
        return 0;
    } catch (const BundleError&) {
        return 0;
    }
    ++inputs_read;
    return 0;
}
