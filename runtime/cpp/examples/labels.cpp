#include "labels.h"

#include <algorithm>
#include <limits>
#include <map>

#include "command_line.h"
#include "text.h"

using himar::core::joined;
using himar::core::split;
using himar::core::trimmed;

namespace {

using Names = std::map<std::string, std::int64_t>;

// The bundle's names; of two classes of one name the first, as numbers tell them apart.
Names names_of(const himar::Pipeline& pipeline) {
    Names names;
    const std::int64_t classes = pipeline.info().classes;
    for (std::int64_t label = 0; label < classes; ++label) {
        const auto name = pipeline.class_name(label);
        if (!name) break;
        names.emplace(trimmed(*name), label);
    }
    return names;
}

void check_count(const std::string& option, std::int64_t images) {
    if (images > kMostLabels)
        throw UsageError(option + " and --count ask for " + std::to_string(images) + " images; at most " +
                         std::to_string(kMostLabels) + " can be made in one run, so ask for fewer, and continue with "
                         "--first-index.");
}

bool is_number(const std::string& part) { return part.find_first_not_of("0123456789-") == std::string::npos; }

void add_range(const std::string& option, const std::string& part, std::vector<std::int64_t>& labels) {
    const std::size_t dash = part.find('-');
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
    const std::int64_t first = whole(option, part.substr(0, dash), 0, most);
    const std::int64_t last = dash == std::string::npos ? first : whole(option, part.substr(dash + 1), 0, most);
    if (last < first) throw UsageError("the range '" + part + "' runs backwards; write it the other way round.");
    check_count(option, static_cast<std::int64_t>(labels.size()) + last - first + 1);
    for (std::int64_t label = first; label <= last; ++label) labels.push_back(label);
}

[[noreturn]] void refuse_name(const std::string& option, const std::string& name, const Names& names) {
    if (names.empty())
        throw UsageError(option + " has '" + name + "', but the bundle names no classes; write numbers, for example 0,3,5-9.");
    std::string some;
    for (auto each = names.begin(); each != names.end() && some.size() < 60; ++each)
        some += (some.empty() ? "'" : ", '") + each->first + "'";
    throw UsageError(option + " has '" + name + "', which is not a class of the bundle; its " + std::to_string(names.size()) +
                     " names are such as " + some + ".");
}

// The label of the name that starts at `place`, which moves behind it: of "tench, Tinca tinca" and "tench" the longer.
std::int64_t take_name(const std::string& option, const std::vector<std::string>& parts, std::size_t& place, const Names& names) {
    std::size_t most = 1;  // parts of a name
    for (const auto& [name, label] : names)
        most = std::max(most, 1 + static_cast<std::size_t>(std::count(name.begin(), name.end(), ',')));
    for (std::size_t end = std::min(parts.size(), place + most); end > place; --end) {
        const auto from = parts.begin() + static_cast<std::ptrdiff_t>(place);
        const auto found = names.find(trimmed(joined({from, parts.begin() + static_cast<std::ptrdiff_t>(end)}, ",")));
        if (found == names.end()) continue;
        place = end;
        return found->second;
    }
    refuse_name(option, trimmed(parts[place]), names);
}

}  // namespace

std::vector<std::int64_t> read_labels(const std::string& option, const std::string& text, std::int64_t count,
                                      const himar::Pipeline* pipeline) {
    const std::vector<std::string> parts = split(text, ",");
    const bool any_name = !std::all_of(parts.begin(), parts.end(), [](const auto& part) { return is_number(trimmed(part)); });
    const Names names = pipeline != nullptr && any_name ? names_of(*pipeline) : Names();
    std::vector<std::int64_t> once, labels;
    for (std::size_t place = 0; place < parts.size();) {
        const std::string part = trimmed(parts[place]);
        if (is_number(part)) {
            add_range(option, part, once);
            ++place;
        } else if (pipeline != nullptr) {
            once.push_back(take_name(option, parts, place, names));
        } else {
            ++place;
        }
    }
    check_count(option, static_cast<std::int64_t>(once.size()) * count);
    for (const std::int64_t label : once) labels.insert(labels.end(), static_cast<std::size_t>(count), label);
    return labels;
}
