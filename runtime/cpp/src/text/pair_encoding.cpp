#include "text/pair_encoding.h"

#include <queue>
#include <tuple>

#include "error.h"
#include "text.h"
#include "text/unicode.h"

namespace himar::core::text {
namespace {

// Bytes in the order of their ids: those that are printable characters of Latin-1, then the others.
std::vector<unsigned char> bytes_in_order() {
    std::vector<unsigned char> bytes, others;
    for (int byte = 0; byte < 256; ++byte) {
        const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
        (printable ? bytes : others).push_back(static_cast<unsigned char>(byte));
    }
    bytes.insert(bytes.end(), others.begin(), others.end());
    return bytes;
}

constexpr std::size_t kBytes = 256, kPrintable = 188;

// How a vocabulary writes the byte of an id: printable ones as they are, the others from U+0100 on.
std::string symbol_of(std::size_t id, unsigned char byte) {
    std::string text;
    append_utf8(text, id < kPrintable ? char32_t{byte} : static_cast<char32_t>(kBytes + id - kPrintable));
    return text;
}

std::uint64_t key_of(std::int64_t left, std::int64_t right) {
    return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint64_t>(right);
}

}  // namespace

std::vector<std::string> symbols_of(const Merges& merges) {
    std::vector<std::string> symbols;
    symbols.reserve(2 * kBytes + merges.size());
    const std::vector<unsigned char> bytes = bytes_in_order();
    for (std::size_t id = 0; id < kBytes; ++id) symbols.push_back(symbol_of(id, bytes[id]));
    for (std::size_t id = 0; id < kBytes; ++id) symbols.push_back(symbols[id] + kWordEnd);
    for (const auto& [left, right] : merges) symbols.push_back(left + right);
    return symbols;
}

PairEncoding::PairEncoding(const Merges& merges) {
    const std::vector<unsigned char> bytes = bytes_in_order();
    for (std::size_t id = 0; id < kBytes; ++id) {
        inside_[bytes[id]] = static_cast<std::int64_t>(id);
        last_[bytes[id]] = static_cast<std::int64_t>(kBytes + id);
    }
    std::unordered_map<std::string, std::int64_t> ids;
    ids.reserve(2 * kBytes + merges.size());
    std::int64_t next = 0;
    for (std::string& symbol : symbols_of(merges)) ids[std::move(symbol)] = next++;
    const auto id_of = [&](const std::pair<std::string, std::string>& merge, const std::string& part) {
        const auto found = ids.find(part);
        if (found == ids.end())
            throw BundleError("the merge " + in_quotes(merge.first) + " + " + in_quotes(merge.second) + " takes " +
                              in_quotes(part) + ", which no merge before it makes; take all files from one CLIP model.");
        return found->second;
    };
    merges_.reserve(merges.size());
    std::int64_t rank = 0;
    for (const auto& merge : merges)
        merges_[key_of(id_of(merge, merge.first), id_of(merge, merge.second))] = {rank++, ids.at(merge.first + merge.second)};
}

const PairEncoding::Merge* PairEncoding::find(std::int64_t left, std::int64_t right) const {
    const auto found = merges_.find(key_of(left, right));
    return found == merges_.end() ? nullptr : &found->second;
}

// The symbols of a word in a list, and the pairs of neighbours that can be merged in a heap.
class PairEncoding::Word {
public:
    Word(const PairEncoding& encoding, std::string_view bytes) : encoding_(encoding) {
        const auto count = static_cast<std::int64_t>(bytes.size());
        symbols_.reserve(bytes.size());
        for (std::int64_t at = 0; at < count; ++at) {
            const auto byte = static_cast<unsigned char>(bytes[static_cast<std::size_t>(at)]);
            const bool is_last = at + 1 == count;
            symbols_.push_back({is_last ? encoding.last_[byte] : encoding.inside_[byte], at - 1, is_last ? -1 : at + 1});
        }
        for (std::int64_t at = 0; at < count; ++at) consider(at);
    }

    void merge_all() {
        while (!pairs_.empty()) {
            const Pair best = pairs_.top();
            pairs_.pop();
            Symbol& left = symbol(best.at);
            if (left.id < 0 || left.after < 0) continue;  // merged away, or the last now
            Symbol& right = symbol(left.after);
            const Merge* const merge = encoding_.find(left.id, right.id);
            if (merge == nullptr || merge->id != best.id) continue;  // one of the two is another now
            left.id = best.id;
            left.after = right.after;
            right.id = -1;
            if (left.after >= 0) symbol(left.after).before = best.at;
            if (left.before >= 0) consider(left.before);
            consider(best.at);
        }
    }

    void append_to(std::vector<std::int64_t>& ids) {
        for (std::int64_t at = 0; at >= 0; at = symbol(at).after) ids.push_back(symbol(at).id);
    }

private:
    struct Symbol {
        std::int64_t id, before, after;  // -1: merged away, at an end
    };
    struct Pair {
        std::int64_t rank, at, id;  // of its left symbol, and of what it becomes
        bool operator<(const Pair& other) const { return std::tie(other.rank, other.at) < std::tie(rank, at); }
    };

    Symbol& symbol(std::int64_t at) { return symbols_[static_cast<std::size_t>(at)]; }

    // Note the pair of the symbol `at` and the one after it, if it can be merged.
    void consider(std::int64_t at) {
        const Symbol& left = symbol(at);
        if (left.after < 0) return;
        if (const Merge* const merge = encoding_.find(left.id, symbol(left.after).id))
            pairs_.push({merge->rank, at, merge->id});
    }

    const PairEncoding& encoding_;
    std::vector<Symbol> symbols_;
    std::priority_queue<Pair> pairs_;  // the lowest rank first, of one rank the leftmost
};

void PairEncoding::append(std::string_view word, std::vector<std::int64_t>& ids) const {
    Word symbols(*this, word);
    symbols.merge_all();
    symbols.append_to(ids);
}

}  // namespace himar::core::text
