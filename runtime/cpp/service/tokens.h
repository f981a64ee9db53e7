// Lets in who knows one of the server's tokens: --token-file.
#pragma once

#include <string>
#include <vector>

namespace himar::service {

// The tokens of a file, one a line; empty lines and those that begin with # are left out. std::runtime_error for a file
// that cannot be read, holds none, or one that no header can carry, without showing it.
std::vector<std::string> read_tokens(const std::string& path);

// Refusal 401 unless the header Authorization carries one of the tokens, or there are none. The comparison takes as long
// for a token that is nearly right as for any other.
void require_token(const std::string& header, const std::vector<std::string>& tokens);

}  // namespace himar::service
