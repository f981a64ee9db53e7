// Byte-pair encoding of words: from a word's bytes to ids, by merging pairs of symbols, lowest rank first.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace himar::core::text {

// Pairs of symbols by rank. A symbol is written with a printable character for each byte, and "</w>" at a word's end.
using Merges = std::vector<std::pair<std::string, std::string>>;

constexpr const char* kWordEnd = "</w>";

// All symbols in the order of their ids, which follows from that of the merges: 256 bytes, the same at the end of a word,
// and the outcome of each merge.
std::vector<std::string> symbols_of(const Merges& merges);

class PairEncoding {
public:
    // BundleError, naming the merge, where one takes a symbol that there is not.
    explicit PairEncoding(const Merges& merges);

    // Append the ids of a word, UTF-8 and not empty.
    void append(std::string_view word, std::vector<std::int64_t>& ids) const;

private:
    struct Merge {
        std::int64_t rank, id;
    };

    const Merge* find(std::int64_t left, std::int64_t right) const;

    class Word;

    std::array<std::int64_t, 256> inside_, last_;  // ids of bytes within a word, and at its end
    std::unordered_map<std::uint64_t, Merge> merges_;
};

}  // namespace himar::core::text
