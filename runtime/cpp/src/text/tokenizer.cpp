#include "text/tokenizer.h"

#include <algorithm>

#include "error.h"
#include "text/unicode.h"
#include "text/words.h"

namespace himar::core::text {
namespace {

std::string prompt_at(std::size_t place) { return "prompt " + std::to_string(place); }

void refuse_tokens(std::string_view prompt, std::size_t place) {
    for (const char* const token : {kStart, kEnd})
        if (prompt.find(token) != std::string_view::npos)
            throw InputError(prompt_at(place) + " holds " + token +
                             ", which would end or start it for the model; leave it out.");
}

}  // namespace

std::vector<std::string_view> prompts_of(const char* const* prompts, const std::size_t* bytes, std::size_t count) {
    std::vector<std::string_view> views;
    for (std::size_t place = 0; prompts != nullptr && place < count; ++place) {
        if (prompts[place] == nullptr) throw InputError(prompt_at(place) + " is NULL; give its text.");
        views.push_back(bytes == nullptr ? std::string_view(prompts[place]) : std::string_view(prompts[place], bytes[place]));
    }
    return views;
}

Tokenizer::Tokenizer(const Vocabulary& vocabulary)
    : encoding_(vocabulary.merges), length_(vocabulary.length), start_(vocabulary.start()), padding_(vocabulary.padding) {
    if (vocabulary.repairs_text)
        throw InputError("this model's tokenizer repairs text with the Python library ftfy, which C++ has not; make the "
                         "contexts with himar's Python runtime, and give them in place of prompts.");
}

Rows Tokenizer::rows(const std::vector<std::string_view>& prompts) const {
    if (prompts.empty()) throw InputError("prompts is empty; give at least one text.");
    Rows rows;
    const auto length = static_cast<std::size_t>(length_), most = length - 1;  // all but the end
    for (std::size_t place = 0; place < prompts.size(); ++place) {
        refuse_tokens(prompts[place], place);
        const std::size_t invalid = first_invalid(prompts[place]);
        if (invalid != std::string_view::npos)
            throw InputError(prompt_at(place) + " is not UTF-8 (byte " + std::to_string(invalid) + "); write it as UTF-8.");
        std::vector<std::int64_t> row = {start_};
        for_each_word(normalised(prompts[place]), [&](const std::string& word) {
            encoding_.append(word, row);
            return row.size() <= most;
        });
        if (row.size() > most) rows.truncated.push_back(place);
        row.resize(std::min(row.size(), most));
        row.push_back(end());
        rows.sizes.push_back(row.size());
        row.resize(length, padding_);
        rows.ids.insert(rows.ids.end(), row.begin(), row.end());
    }
    return rows;
}

}  // namespace himar::core::text
