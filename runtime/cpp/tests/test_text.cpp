// The tokenizer: Unicode, words, byte-pair encoding, vocabularies from folders, rows. tests/runtime/cpp/test_tokens.py
// compares its ids with those of the library tokenizers.
#include <fstream>
#include <thread>

#include "bundles.h"
#include "error.h"
#include "text/tokenizer.h"
#include "text/unicode.h"
#include "text/words.h"

namespace fs = std::filesystem;
using namespace himar::core;
using namespace himar::core::text;

namespace {

const Merges kMerges = {{"r", "e"}, {"re", "d</w>"}, {"t", "w"}, {"tw", "o</w>"}, {"e", "d</w>"}};
constexpr std::int64_t kStartId = 517, kEndId = 518;

std::vector<std::string> words_of(std::string_view text) {
    std::vector<std::string> words;
    for_each_word(normalised(text), [&](const std::string& word) {
        words.push_back(word);
        return true;
    });
    return words;
}

std::vector<std::int64_t> ids_of(const std::string& word) {
    std::vector<std::int64_t> ids;
    PairEncoding(kMerges).append(word, ids);
    return ids;
}

Tokenizer tokenizer(std::int64_t length = 8) { return Tokenizer({kMerges, length, kEndId, false}); }

std::vector<std::int64_t> row_of(const Tokenizer& with, std::string_view prompt) { return with.rows({prompt}).ids; }

void write(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

// A folder with the merges' file.
struct Folder : TemporaryFolder {
    Folder() { write(path() / "merges.txt", "#version: 0.2\nr e\nre d</w>\nt w\ntw o</w>\ne d</w>\n"); }
    const fs::path& path() const { return beside(); }
};

// The vocabulary of the merges as JSON.
std::string vocabulary() {
    Json ids = Json::object();
    std::int64_t next = 0;
    for (const std::string& symbol : symbols_of(kMerges)) ids.emplace(symbol, next++);
    ids["<|startoftext|>"] = next++;
    ids["<|endoftext|>"] = next;
    return ids.dump();
}

std::string refusal(const fs::path& folder) {
    return sentence_of<BundleError>([&] { read_vocabulary(folder); });
}

}  // namespace

TEST_SUITE("text") {
    TEST_CASE("text is composed, in lower case, its white space one kind of space") {
        CHECK(normalised("A\tb\xC2\xA0" "C\xE3\x80\x80.") == U"a b c .");
        CHECK(normalised("e\xCC\x81") == U"\u00E9");
        CHECK(normalised("a\xCC\x81\xCC\xA3") == U"\u1EA1\u0301");  // marks in canonical order: dot below first
        CHECK(normalised("\xC4\xB0\xCE\xA3") == U"i\u0307\u03C3");  // of U+0130 two; no final sigma
        CHECK(normalised("\xE1\x84\x80\xE1\x85\xA1") == U"\uAC00");  // Hangul
        CHECK(normalised("\x1C") == U"\x1C");
    }

    TEST_CASE("a long run of combining marks takes no quadratic time") {
        std::string text = "a";
        for (int i = 0; i < 200'000; ++i) text += i % 2 == 0 ? "\xCC\x81" : "\xCC\xA3";
        CHECK(normalised(text).size() == 200'000);
    }

    TEST_CASE("bytes that are not UTF-8 are found") {
        CHECK(first_invalid("a\xC3\xA9") == std::string_view::npos);
        CHECK(first_invalid("ab\xC3") == 2);
        CHECK(first_invalid("\xED\xA0\x80") == 0);      // a surrogate
        CHECK(first_invalid("a\xC0\xAF") == 1);          // longer than need be
        CHECK(first_invalid("\xF4\x90\x80\x80") == 0);  // beyond U+10FFFF
    }

    TEST_CASE("words are runs of letters, single numbers, runs of others, and endings") {
        CHECK(words_of("It's 12") == std::vector<std::string>{"it", "'s", "1", "2"});
        CHECK(words_of("we'll don't o'clock") ==
              std::vector<std::string>{"we", "'ll", "don", "'t", "o", "'", "clock"});
        CHECK(words_of("(a)--b!!") == std::vector<std::string>{"(", "a", ")--", "b", "!!"});
        CHECK(words_of("\"'s") == std::vector<std::string>{"\"'", "s"});
        CHECK(words_of("\xE4\xB8\xAD\xE6\x96\x87\xF0\x9F\x98\x80") ==
              std::vector<std::string>{"\xE4\xB8\xAD\xE6\x96\x87", "\xF0\x9F\x98\x80"});
        CHECK(words_of(" \t\n").empty());
    }

    TEST_CASE("pairs are merged by rank, from the left") {
        CHECK(ids_of("red") == std::vector<std::int64_t>{513});
        CHECK(ids_of("two") == std::vector<std::int64_t>{515});
        CHECK(ids_of("ed") == std::vector<std::int64_t>{516});
        CHECK(ids_of("a") == std::vector<std::int64_t>{256 + 'a' - '!'});
        CHECK(ids_of("rere").size() == 3);  // the end of a word is another symbol
        CHECK(sentence_of<BundleError>([] { PairEncoding(Merges{{"r", "ex"}}); }) ==
              "the merge 'r' + 'ex' takes 'ex', which no merge before it makes; take all files from one CLIP model.");
    }

    TEST_CASE("a row starts, ends, and is padded") {
        CHECK(row_of(tokenizer(), "Red two") == std::vector<std::int64_t>{kStartId, 513, 515, kEndId, kEndId, kEndId, kEndId, kEndId});
        CHECK(row_of(Tokenizer({kMerges, 4, 0, false}), "") == std::vector<std::int64_t>{kStartId, kEndId, 0, 0});
        const Rows rows = tokenizer(4).rows({"red", "red red", "red red red"});
        CHECK(rows.sizes == std::vector<std::size_t>{3, 4, 4});
        CHECK(rows.truncated == std::vector<std::size_t>{2});
        CHECK(rows.ids == std::vector<std::int64_t>{kStartId, 513, kEndId, kEndId, kStartId, 513, 513, kEndId, kStartId, 513,
                                                    513, kEndId});
    }

    TEST_CASE("prompts that cannot be encoded are refused") {
        const auto sentence = [](std::vector<std::string_view> prompts) {
            return sentence_of<InputError>([&] { tokenizer().rows(prompts); });
        };
        CHECK(sentence({}) == "prompts is empty; give at least one text.");
        CHECK(sentence({"a", "b <|endoftext|>"}) ==
              "prompt 1 holds <|endoftext|>, which would end or start it for the model; leave it out.");
        CHECK(sentence({"red \xFF"}) == "prompt 0 is not UTF-8 (byte 4); write it as UTF-8.");
        CHECK(holds(sentence_of<InputError>([] { Tokenizer({kMerges, 8, 0, true}); }), "himar's Python runtime"));
    }

    TEST_CASE("threads share a tokenizer") {
        const Tokenizer shared = tokenizer();
        const auto expected = row_of(shared, "a red two");
        std::vector<std::thread> threads;
        std::vector<int> same(4);
        for (std::size_t i = 0; i < same.size(); ++i)
            threads.emplace_back([&, i] { same[i] = row_of(shared, "a red two") == expected; });
        for (std::thread& thread : threads) thread.join();
        CHECK(same == std::vector<int>{1, 1, 1, 1});
    }

    TEST_CASE("a folder's files give vocabulary, padding and length") {
        const Folder folder;
        CHECK(read_vocabulary(folder.path()).merges == kMerges);
        CHECK(read_vocabulary(folder.path()).padding == kEndId);
        CHECK(read_vocabulary(folder.path()).length == 77);
        write(folder.path() / "vocab.json", vocabulary());
        write(folder.path() / "special_tokens_map.json", R"({"pad_token": {"content": "!"}})");
        write(folder.path() / "config.json", R"({"text_config": {"max_position_embeddings": 9}})");
        const Vocabulary read = read_vocabulary(folder.path());
        CHECK(read.padding == 0);
        CHECK(read.length == 9);
        CHECK_FALSE(read.repairs_text);
        write(folder.path() / "tokenizer_config.json", R"({"model_max_length": 7})");
        CHECK(holds(refusal(folder.path()), "a prompt has 7 (tokenizer_config.json) and 9 (config.json) tokens"));
    }

    TEST_CASE("tokenizer.json alone is enough, with merges as lines or pairs") {
        for (const char* const merges : {R"(["r e", "re d</w>", "t w", "tw o</w>", "e d</w>"])",
                                         R"([["r", "e"], ["re", "d</w>"], ["t", "w"], ["tw", "o</w>"], ["e", "d</w>"]])"}) {
            const TemporaryFolder folder;
            write(folder.beside() / "tokenizer.json", R"({"model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": )" +
                                                          vocabulary() + R"(, "merges": )" + merges + "}}");
            CHECK(read_vocabulary(folder.beside()).merges == kMerges);
        }
    }

    TEST_CASE("an open_clip folder repairs text and pads with 0") {
        const Folder folder;
        write(folder.path() / "open_clip_config.json", R"({"model_cfg": {"text_cfg": {"context_length": 77}}})");
        const Vocabulary read = read_vocabulary(folder.path());
        CHECK(read.repairs_text);
        CHECK(read.padding == 0);
    }

    TEST_CASE("files that are no CLIP vocabulary are refused") {
        const TemporaryFolder empty;
        CHECK(holds(refusal(empty.beside()), "has neither vocab.json and merges.txt nor tokenizer.json"));
        const Folder folder;
        const auto refused = [&](const char* file, const std::string& text, const std::string& part) {
            write(folder.path() / file, text);
            holds(refusal(folder.path()), part);
            fs::remove(folder.path() / file);
        };
        Json ids = Json::parse(vocabulary());
        ids["red</w>"] = 9;
        refused("vocab.json", ids.dump(), "'red</w>' has the id 9, and by the merges' order its id is 513; take both from");
        ids["red</w>"] = 513, ids["more"] = 600;
        refused("vocab.json", ids.dump(), "'more', id 600, is the result of no merge");
        ids.erase("more"), ids.erase("<|endoftext|>");
        refused("vocab.json", ids.dump(), "the vocabulary lacks <|endoftext|>");
        refused("vocab.json", "[]", "vocab.json holds no JSON object");
        refused("vocab.json", "{", "vocab.json is not valid JSON");
        refused("tokenizer_config.json", R"({"pad_token": "[PAD]"})", "adds the token '[PAD]' to CLIP's vocabulary");
        refused("tokenizer_config.json", R"({"eos_token": "</s>"})", "eos_token is '</s>', and CLIP's is '<|endoftext|>'");
        refused("tokenizer_config.json", R"({"model_max_length": 1})", "a prompt has 1 tokens; it needs 2 at least");
        refused("open_clip_config.json", R"({"model_cfg": {"text_cfg": {"hf_tokenizer_name": "t5"}}})",
                "names another tokenizer (t5)");
        write(folder.path() / "merges.txt", "r e\nr e d\n");
        CHECK(holds(refusal(folder.path()), "merges.txt: merge 1 is 'r e d' and not two tokens; fetch the file again."));
        fs::remove(folder.path() / "merges.txt");
        refused("tokenizer.json", R"({"model": {"type": "WordPiece"}})", "holds a model of type 'WordPiece' and not CLIP's");
    }

    TEST_CASE("the interface encodes prompts, and keeps sentences") {
        const Folder folder;
        himar::Tokenizer opened = himar::Tokenizer::open(folder.path().string());
        CHECK(opened.info().length == 77);
        CHECK(opened.info().end == kEndId);
        const himar::Tokens tokens = opened.encode({"red", ""});
        CHECK(tokens.rows == std::vector<std::vector<std::int64_t>>{{kStartId, 513, kEndId}, {kStartId, kEndId}});
        CHECK(tokens.truncated.empty());
        CHECK(opened.encode({std::string("a\0b", 3)}).rows[0].size() == 5);  // NUL is a character like others
        const char* prompts[] = {nullptr};
        CHECK(himar_tokenizer_encode(nullptr, prompts, nullptr, 1, nullptr, nullptr, nullptr) == HIMAR_ERROR_INPUT);
        himar_tokenizer_info info{};
        himar_tokenizer* handle = nullptr;
        REQUIRE(himar_tokenizer_open(folder.path().c_str(), &handle) == HIMAR_OK);
        CHECK(himar_tokenizer_get_info(handle, &info) == HIMAR_ERROR_INPUT);
        CHECK(holds(himar_last_error(), "himar_tokenizer_info.struct_size is 0; it must be 40"));
        CHECK(himar_tokenizer_encode(handle, prompts, nullptr, 1, nullptr, nullptr, nullptr) == HIMAR_ERROR_INPUT);
        CHECK(std::string(himar_last_error()) == "prompt 0 is NULL; give its text.");
        CHECK(himar_tokenizer_free(handle) == HIMAR_OK);
        CHECK(himar_tokenizer_open((folder.path() / "nowhere").c_str(), &handle) == HIMAR_ERROR_BUNDLE);
    }
}
