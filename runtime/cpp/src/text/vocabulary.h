// Reading CLIP's vocabulary from the folder of a model, or from the files of a bundle.
//
// The counterpart of himar_kernels/text/files.py and vocabulary.py, with their sentences.
#pragma once

#include <cstdint>
#include <filesystem>

#include "text/pair_encoding.h"

namespace himar::core::text {

constexpr const char* kStart = "<|startoftext|>";
constexpr const char* kEnd = "<|endoftext|>";

// Merges, from which all ids follow, and how prompts become rows of ids.
struct Vocabulary {
    Merges merges;
    std::int64_t length = 77;   // tokens of a row, start and end among them
    std::int64_t padding = 0;   // id behind the end token
    bool repairs_text = false;  // prompts go through ftfy first, as open_clip's do

    std::int64_t start() const { return 2 * 256 + static_cast<std::int64_t>(merges.size()); }
    std::int64_t end() const { return start() + 1; }
};

// Read the folder of a model: vocab.json and merges.txt, or merges.txt or tokenizer.json alone; their padding and length
// come from tokenizer_config.json, special_tokens_map.json, open_clip_config.json and config.json, where they are.
// BundleError: a file is missing or damaged, another tokenizer's, or the files contradict each other.
Vocabulary read_vocabulary(const std::filesystem::path& folder);

// Read merges, "a b" a line; BundleError for anything else.
Merges read_merges(const std::filesystem::path& path);

// Where the ids of a vocab.json are not those of the merges, as part of a sentence; "" where they are CLIP's. BundleError
// for a file that is none.
std::string disagreement(const std::filesystem::path& vocabulary, const Merges& merges);

}  // namespace himar::core::text
