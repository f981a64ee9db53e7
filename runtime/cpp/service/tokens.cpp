#include "tokens.h"

#include <openssl/crypto.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "refusals.h"
#include "text.h"

namespace himar::service {
namespace {

using core::lower;
using core::trimmed;

// As RFC 6750 has it: letters, digits and marks, then perhaps equals signs.
bool is_token(const std::string& text) {
    const std::string allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~+/-";
    const std::size_t end = text.find_last_not_of('=');
    return end != std::string::npos && text.find_first_not_of(allowed) > end;
}

bool is_utf8(const std::string& text) {
    try {
        nlohmann::json(text).dump();
        return true;
    } catch (const nlohmann::json::exception&) {
        return false;
    }
}

std::string content_of(const std::string& path) {
    std::error_code failed;
    if (std::filesystem::is_directory(path, failed))
        throw std::runtime_error(path + " cannot be read: " + std::strerror(EISDIR) + ".");
    errno = 0;
    std::ifstream file(path, std::ios::binary);
    std::string content(std::istreambuf_iterator<char>(file), {});
    if (!file.is_open() || file.bad())
        throw std::runtime_error(path + " cannot be read: " + std::strerror(errno == 0 ? EIO : errno) + ".");
    if (!is_utf8(content)) throw std::runtime_error(path + " cannot be read: it is not UTF-8.");
    return content;
}

bool are_equal(const std::string& one, const std::string& other) {
    return one.size() == other.size() && CRYPTO_memcmp(one.data(), other.data(), one.size()) == 0;
}

[[noreturn]] void refuse(const std::string& sentence) {
    throw Refusal(401, sentence, Headers{{"WWW-Authenticate", "Bearer"}});
}

}  // namespace

std::vector<std::string> read_tokens(const std::string& path) {
    std::vector<std::string> tokens;
    std::size_t number = 0;
    for (const std::string& whole : core::split(content_of(path), "\n")) {
        ++number;
        const std::string line = trimmed(whole, " \t\r\v\f");
        if (line.empty() || line.front() == '#') continue;
        if (!is_token(line))
            throw std::runtime_error("line " + std::to_string(number) + " of " + path +
                                     " is not a token; write one a line, of letters, digits and ._~+/- (RFC 6750).");
        tokens.push_back(line);
    }
    if (tokens.empty())
        throw std::runtime_error(path + " holds no token; write one a line, for example of `openssl rand -hex 32`.");
    return tokens;
}

void require_token(const std::string& header, const std::vector<std::string>& tokens) {
    if (tokens.empty()) return;
    const std::string sent = trimmed(header);
    const std::size_t space = sent.find(' ');
    const std::string token = space == std::string::npos ? "" : trimmed(sent.substr(space));
    if (lower(sent.substr(0, space)) != "bearer" || token.empty())
        refuse("this server wants a token; send it in the header 'Authorization: Bearer TOKEN'.");
    bool known = false;
    for (const std::string& each : tokens) known = are_equal(token, each) || known;
    if (!known) refuse("the token is not one of this server's; ask its operator for one.");
}

}  // namespace himar::service
