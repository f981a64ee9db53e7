#include "api/class_names.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

#include "error.h"
#include "text.h"
#include "text/unicode.h"

namespace himar::core {
namespace {

constexpr std::size_t kMostShown = 5, kMostNear = 6, kMostNearShown = 3, kMostDigits = 18;
constexpr double kLeastLikeness = 0.5;

struct Named {
    const std::string* name;
    std::int64_t label;
};

std::vector<Named> matching(const std::vector<Named>& names, const std::string& wanted) {
    const std::string folded = lower(wanted);
    const auto that = [&](auto fits) {
        std::vector<Named> found;
        std::copy_if(names.begin(), names.end(), std::back_inserter(found), [&](const Named& each) { return fits(*each.name); });
        return found;
    };
    auto found = that([&](const std::string& name) { return name == wanted; });
    if (found.empty()) found = that([&](const std::string& name) { return lower(name) == folded; });
    if (found.empty()) found = that([&](const std::string& name) { return lower(name).compare(0, folded.size(), folded) == 0; });
    return found;
}

// Looks for what two texts share.
class Runs {
public:
    Runs(const std::u32string& text, const std::u32string& word) : text_(text), word_(word) {
        for (std::size_t j = 0; j < word.size(); ++j) places_[word[j]].push_back(j);
        if (word.size() < 200) return;
        const std::size_t most = word.size() / 100 + 1;
        for (auto each = places_.begin(); each != places_.end();) each = each->second.size() > most ? places_.erase(each) : ++each;
    }

    // Characters in the runs that the parts of the two texts share.
    std::size_t shared() const {
        std::size_t sum = 0;
        std::vector<Part> parts = {{0, text_.size(), 0, word_.size()}};
        while (!parts.empty()) {
            const Part part = parts.back();
            parts.pop_back();
            const Run run = longest(part);
            if (run.size == 0) continue;
            sum += run.size;
            parts.push_back({part.i, run.i, part.j, run.j});
            parts.push_back({run.i + run.size, part.i_end, run.j + run.size, part.j_end});
        }
        return sum;
    }

private:
    struct Part {
        std::size_t i, i_end, j, j_end;
    };
    struct Run {
        std::size_t i, j, size;
    };

    // The longest run; of equals the first in the text, and of those the first in the word.
    Run longest(const Part& part) const {
        Run best{part.i, part.j, 0};
        std::map<std::size_t, std::size_t> before, now;  // length of the run that ends at a place of the word
        for (std::size_t i = part.i; i < part.i_end; ++i) {
            now.clear();
            if (const auto found = places_.find(text_[i]); found != places_.end()) {
                const auto& all = found->second;
                for (auto j = std::lower_bound(all.begin(), all.end(), part.j); j != all.end() && *j < part.j_end; ++j) {
                    const auto left = *j == 0 ? before.end() : before.find(*j - 1);
                    const std::size_t size = (left == before.end() ? 0 : left->second) + 1;
                    now[*j] = size;
                    if (size > best.size) best = {i + 1 - size, *j + 1 - size, size};
                }
            }
            before.swap(now);
        }
        // Letters that begin no run may still lengthen one.
        while (best.i > part.i && best.j > part.j && text_[best.i - 1] == word_[best.j - 1]) --best.i, --best.j, ++best.size;
        while (best.i + best.size < part.i_end && best.j + best.size < part.j_end &&
               text_[best.i + best.size] == word_[best.j + best.size])
            ++best.size;
        return best;
    }

    const std::u32string &text_, &word_;
    std::map<char32_t, std::vector<std::size_t>> places_;  // of each letter in the word, ascending
};

// The folded names, and their synonyms where a name is a list of some, each with the name that it stands for.
std::vector<std::pair<std::u32string, const std::string*>> keys_of(const std::vector<Named>& names) {
    std::vector<std::pair<std::u32string, const std::string*>> keys;
    std::map<std::u32string, std::size_t> places;
    for (const Named& each : names) {
        std::vector<std::string> parts = split(*each.name, ",");
        parts.push_back(*each.name);
        for (const std::string& part : parts) {
            std::u32string key = text::case_folded(trimmed(part));
            const auto [place, is_new] = places.emplace(key, keys.size());
            if (is_new)
                keys.emplace_back(std::move(key), each.name);
            else
                keys[place->second].second = each.name;
        }
    }
    return keys;
}

// Advice to who wrote a name that is none of these.
std::string nearest(const std::string& wanted, const std::vector<Named>& names) {
    const std::u32string word = text::case_folded(wanted);
    const auto keys = keys_of(names);
    std::vector<std::pair<double, std::size_t>> near;
    for (std::size_t place = 0; place < keys.size(); ++place) {
        const std::u32string& key = keys[place].first;
        const std::size_t shorter = std::min(key.size(), word.size()), both = key.size() + word.size();
        if (both == 0 || 2.0 * static_cast<double>(shorter) / static_cast<double>(both) < kLeastLikeness) continue;
        if (const double found = likeness(key, word); found >= kLeastLikeness) near.emplace_back(found, place);
    }
    std::sort(near.begin(), near.end(), [&](const auto& a, const auto& b) {
        return a.first != b.first ? a.first > b.first : keys[a.second].first > keys[b.second].first;
    });
    near.resize(std::min(near.size(), kMostNear));
    std::vector<std::string> shown;
    for (const auto& [found, place] : near) {
        std::string name = in_quotes(*keys[place].second);
        if (std::find(shown.begin(), shown.end(), name) == shown.end()) shown.push_back(std::move(name));
    }
    shown.resize(std::min(shown.size(), kMostNearShown));
    return shown.empty() ? "give its number" : "the nearest names are " + joined(shown);
}

}  // namespace

double likeness(const std::u32string& text, const std::u32string& word) {
    const std::size_t both = text.size() + word.size();
    return both == 0 ? 1 : 2.0 * static_cast<double>(Runs(text, word).shared()) / static_cast<double>(both);
}

std::int64_t named_class(const std::string& text, std::int64_t classes, const std::vector<std::string>& names) {
    if (text::first_invalid(text) != std::string_view::npos)
        throw InputError("the class is not UTF-8; give the name or the number of one.");
    const std::string wanted = trimmed(text, " \t\r\n\v\f");
    if (wanted.empty()) throw InputError("the class is empty; give the name or the number of one.");
    if (wanted.find_first_not_of("0123456789") == std::string::npos) {
        const std::int64_t number = wanted.size() > kMostDigits ? classes : std::stoll(wanted);
        if (number < classes) return number;
        throw InputError(wanted.substr(0, 100) + " is not a class of this model; classes are the numbers 0 to " +
                         std::to_string(classes - 1) + ".");
    }
    std::vector<Named> known;
    for (std::size_t label = 0; label < names.size(); ++label)
        if (!names[label].empty()) known.push_back({&names[label], static_cast<std::int64_t>(label)});
    if (known.empty())
        throw InputError(in_quotes(wanted) + " is no number, and this model does not know its classes' names; give 0 to " +
                         std::to_string(classes - 1) + ".");
    const std::vector<Named> found = matching(known, wanted);
    if (found.size() == 1) return found.front().label;
    if (found.empty()) throw InputError(in_quotes(wanted) + " is not a class of this model; " + nearest(wanted, known) + ".");
    std::vector<std::string> shown;
    for (std::size_t i = 0; i < std::min(found.size(), kMostShown); ++i)
        shown.push_back(in_quotes(*found[i].name) + " (" + std::to_string(found[i].label) + ")");
    throw InputError(in_quotes(wanted) + " may be " + std::to_string(found.size()) + " classes: " + joined(shown) +
                     (found.size() > kMostShown ? ", …" : "") + "; write more of the name, or the number.");
}

}  // namespace himar::core
