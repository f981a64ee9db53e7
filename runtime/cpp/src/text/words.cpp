#include "text/words.h"

#include <algorithm>

#include "text/unicode.h"

namespace himar::core::text {
namespace {

bool is_other(char32_t point) { return point != U' ' && !is_letter(point) && !is_number(point); }

constexpr std::u32string_view kEndings[] = {U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"};

// CLIP's tokens, where a text wrote them in capitals: a word ends with them.
constexpr std::u32string_view kTokens[] = {U"<|startoftext|>", U"<|endoftext|>"};

bool starts_with(std::u32string_view text, std::u32string_view start) { return text.substr(0, start.size()) == start; }

// Code points of the word that `text` starts with, which is no space.
std::size_t word_at(std::u32string_view text) {
    for (const std::u32string_view ending : kEndings)
        if (starts_with(text, ending)) return ending.size();
    if (is_number(text.front())) return 1;
    const auto same = is_letter(text.front()) ? is_letter : is_other;
    std::size_t size = 1;
    while (size < text.size() && same(text[size])) ++size;
    return size;
}

}  // namespace

void for_each_word(std::u32string_view text, const std::function<bool(const std::string& word)>& take) {
    std::string word;
    std::size_t token_end = 0;  // what of `text` is left behind one of CLIP's tokens
    while (!text.empty()) {
        if (text.front() == U' ') {
            text.remove_prefix(1);
            continue;
        }
        for (const std::u32string_view token : kTokens)
            if (starts_with(text, token)) token_end = text.size() - token.size();
        std::size_t size = word_at(text);
        if (text.size() > token_end) size = std::min(size, text.size() - token_end);
        word.clear();
        for (const char32_t point : text.substr(0, size)) append_utf8(word, point);
        if (!take(word)) return;
        text.remove_prefix(size);
    }
}

}  // namespace himar::core::text
