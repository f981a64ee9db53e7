// CLIP's tokenizer: from prompts to rows of token ids.
//
// Lower-cased byte-pair encoding between a start and an end token; the ids are those of himar_kernels.text.Tokenizer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "text/pair_encoding.h"
#include "text/vocabulary.h"

namespace himar::core::text {

// Tokens of prompts.
struct Rows {
    std::vector<std::int64_t> ids;         // (prompts, length), padding behind each end token
    std::vector<std::size_t> sizes;        // (prompts), tokens before the padding
    std::vector<std::size_t> truncated;    // indices of prompts of which the first length - 2 tokens were kept
};

// Prompts that C gives, NUL-terminated where `bytes` is null; InputError for one that is NULL.
std::vector<std::string_view> prompts_of(const char* const* prompts, const std::size_t* bytes, std::size_t count);

// Immutable, so threads share it.
class Tokenizer {
public:
    // BundleError for merges that are not CLIP's; InputError for a tokenizer that repairs text, which Python alone does.
    explicit Tokenizer(const Vocabulary& vocabulary);

    std::int64_t length() const { return length_; }  // tokens of a row
    std::int64_t start() const { return start_; }
    std::int64_t end() const { return start_ + 1; }
    std::int64_t padding() const { return padding_; }

    // InputError, naming the prompt, for no prompts, and for one that is not UTF-8 or holds a start or end token as text.
    Rows rows(const std::vector<std::string_view>& prompts) const;

private:
    PairEncoding encoding_;
    std::int64_t length_, start_, padding_;
};

}  // namespace himar::core::text
