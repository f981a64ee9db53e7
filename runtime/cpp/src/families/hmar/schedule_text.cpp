#include "families/hmar/schedule_text.h"

#include "bundle/json_reader.h"
#include "error.h"
#include "families/setting_values.h"
#include "text.h"

namespace himar::core::hmar {
namespace {

constexpr std::size_t kMostShown = 80;

std::string written(const Json& value, int deep = 0) {
    if (value.is_string()) return in_quotes(value.get<std::string>());
    if (value.is_null()) return "None";
    if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
    if (value.is_object()) return "{...}";
    if (!value.is_array()) return shown(value);
    std::string text = "[";
    for (const Json& each : value) {
        if (text.size() > kMostShown) break;
        if (text.size() > 1) text += ", ";
        text += deep < 3 ? written(each, deep + 1) : "...";
    }
    return text + "]";
}

std::string cut(const std::string& text) { return text.substr(0, kMostShown); }

[[noreturn]] void refuse(const std::string& given) {
    throw InputError("schedule is " + cut(given) + "; give a list of counts for each scale, for example [[1], [1, 3]].");
}

}  // namespace

Schedule schedule_of(const Json& value) {
    if (!value.is_array()) refuse(written(value));
    Schedule schedule;
    for (const Json& counts : value) {
        const std::string name = "schedule of scale " + std::to_string(schedule.size());
        if (!counts.is_array() || counts.empty())
            throw InputError(name + " is " + cut(written(counts)) + "; give a list of counts, for example [1, 3].");
        schedule.emplace_back();
        for (const Json& count : counts) {
            if (!count.is_number_integer()) throw InputError(name + " is " + written(count) + "; it must be a whole number.");
            schedule.back().push_back(whole_of(name.c_str(), count));
            check_whole(name.c_str(), schedule.back().back(), schedule.back().size() == 1 ? 0 : 1, 0);
        }
    }
    return schedule;
}

Schedule schedule_of_text(const std::string& text) {
    const std::optional<Json> value = json_of(text);
    if (!value) refuse(in_quotes(text));
    return schedule_of(*value);
}

std::string listed(const Json& value) { return written(value); }

}  // namespace himar::core::hmar
