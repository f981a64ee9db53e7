// The texts that himar-generate reads from a file, and their tokens.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

// The texts of a JSON list. std::runtime_error for a file that cannot be read or holds none.
std::vector<std::string> read_texts(const std::filesystem::path& path);

// The prompts of a file: a JSON list where its name ends in .json, else one a line, blank lines left out.
// std::runtime_error for a file that cannot be read or holds no prompt.
std::vector<std::string> read_prompts(const std::filesystem::path& path);

// Warn on stderr of prompts that were cut to a model's `length` tokens.
void warn_truncated(const std::vector<std::size_t>& places, std::int64_t length);

// Print the token ids of texts as a JSON list of lists, without padding, as `himar-export tokens` does: folder: of a
// tokenizer (see himar_tokenizer_open). What was cut is named on stderr.
void print_tokens(const std::string& folder, const std::vector<std::string>& texts);
