#include "bundle/sha256.h"

#include <openssl/evp.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "error.h"

namespace himar::core {
namespace {

// The digest of the blocks that `next` gives until one is empty.
std::string digest_of(const std::function<std::string_view()>& next) {
    const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
    bool good = context != nullptr && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1;
    for (std::string_view block = next(); good && !block.empty(); block = next())
        good = EVP_DigestUpdate(context.get(), block.data(), block.size()) == 1;
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    if (!good || EVP_DigestFinal_ex(context.get(), digest, &size) != 1)
        throw Error(HIMAR_ERROR_INTERNAL, "libcrypto has no SHA-256 here; install OpenSSL's default provider.");
    std::string text;
    for (unsigned int i = 0; i < size; ++i)
        for (const int digit : {digest[i] >> 4, digest[i] & 15}) text += "0123456789abcdef"[digit];
    return text;
}

}  // namespace

std::string sha256(std::string_view bytes) {
    return digest_of([&] { return std::exchange(bytes, {}); });
}

std::string sha256_of_file(const std::filesystem::path& path) {
    const auto cannot = [&] { return BundleError(path.string() + " cannot be read: " + std::strerror(errno) + "."); };
    std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
    if (file == nullptr) throw cannot();
    std::vector<char> block(1 << 20);
    const std::string digest = digest_of([&] {
        return std::string_view(block.data(), std::fread(block.data(), 1, block.size(), file.get()));
    });
    if (std::ferror(file.get())) throw cannot();
    return digest;
}

}  // namespace himar::core
