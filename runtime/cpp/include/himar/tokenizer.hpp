// Part of himar.hpp: CLIP's tokenizer.
#ifndef HIMAR_TOKENIZER_HPP
#define HIMAR_TOKENIZER_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "himar.h"
#include "view.hpp"

namespace himar {

// Token ids of prompts, each from its start to its end token, without padding.
struct Tokens {
    std::vector<std::vector<std::int64_t>> rows;
    std::vector<std::size_t> truncated;  // places of prompts of which only the first K - 2 tokens were kept
};

// See himar_tokenizer_open. Threads may share one.
class Tokenizer {
public:
    static Tokenizer open(const std::string& path) {
        himar_tokenizer* handle = nullptr;
        check(himar_tokenizer_open(path.c_str(), &handle));
        return Tokenizer(handle);
    }

    himar_tokenizer_info info() const {
        himar_tokenizer_info info{};
        info.struct_size = sizeof info;
        check(himar_tokenizer_get_info(handle_.get(), &info));
        return info;
    }

    // Throws Error as described at himar_tokenizer_encode.
    Tokens encode(const std::vector<std::string>& prompts) const {
        std::vector<const char*> pointers;
        std::vector<std::size_t> bytes;
        for (const std::string& prompt : prompts) pointers.push_back(prompt.data()), bytes.push_back(prompt.size());
        const std::size_t count = prompts.size(), length = static_cast<std::size_t>(info().length);
        std::vector<std::int64_t> ids(count * length);
        std::vector<std::size_t> sizes(count);
        std::vector<std::uint8_t> truncated(count);
        check(himar_tokenizer_encode(handle_.get(), pointers.data(), bytes.data(), count, ids.data(), sizes.data(),
                                     truncated.data()));
        Tokens tokens;
        for (std::size_t place = 0; place < count; ++place) {
            const auto row = ids.begin() + static_cast<std::ptrdiff_t>(place * length);
            tokens.rows.emplace_back(row, row + static_cast<std::ptrdiff_t>(sizes[place]));
            if (truncated[place] != 0) tokens.truncated.push_back(place);
        }
        return tokens;
    }

private:
    explicit Tokenizer(himar_tokenizer* handle) : handle_(handle, himar_tokenizer_free) {}

    std::unique_ptr<himar_tokenizer, himar_status (*)(himar_tokenizer*)> handle_;
};

}  // namespace himar

#endif
