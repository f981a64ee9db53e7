// SHA-256 by OpenSSL's libcrypto, as 64 lower-case hexadecimal digits.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace himar::core {

std::string sha256(std::string_view bytes);

// Of a file's content; BundleError when it cannot be read.
std::string sha256_of_file(const std::filesystem::path& path);

}  // namespace himar::core
