// The texts that himar-generate reads from a file, and their tokens.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

// The texts of a JSON list. std::runtime_error for a file that cannot be read or holds none.
std::vector<std::string> read_texts(const std::filesystem::path& path);

// Print the token ids of texts as a JSON list of lists, without padding, as `himar-export tokens` does: folder: of a
// tokenizer (see himar_tokenizer_open). What was cut is named on stderr.
void print_tokens(const std::string& folder, const std::vector<std::string>& texts);
