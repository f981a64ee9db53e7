#include "log.h"

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "answer.h"

namespace himar::service {
namespace {

using Json = nlohmann::ordered_json;

bool as_json = false;

std::string time_now() {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const std::time_t seconds = std::chrono::duration_cast<std::chrono::seconds>(now).count();
    const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(now).count() % 1000;
    std::tm parts{};
    gmtime_r(&seconds, &parts);
    char day[32], text[48];
    std::strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &parts);
    std::snprintf(text, sizeof text, "%s.%03dZ", day, static_cast<int>(milliseconds));
    return text;
}

// Microseconds are enough.
double rounded(double seconds) { return std::round(seconds * 1e6) / 1e6; }

// One call, so that lines of several threads never mix; what cannot be written is lost; the service continues.
void write_line(const std::string& whole) {
    const ssize_t written = ::write(STDERR_FILENO, whole.data(), whole.size());
    static_cast<void>(written);
}

void write_event(const char* level, const std::string& sentence) {
    if (!as_json) return write_line(time_now() + " himar-serve: " + sentence + "\n");
    write_line(dumped({{"time", time_now()}, {"level", level}, {"logger", "himar-serve"}, {"message", sentence}}) + "\n");
}

}  // namespace

void log_as_json() { as_json = true; }

void log_answer(const Answered& answered) {
    const auto& [id, method, path, status, images, queued, seconds, stages] = answered;
    if (as_json) {
        Json line = {{"time", time_now()}, {"id", id},         {"method", method},       {"path", path},
                     {"status", status},   {"images", images}, {"queued", rounded(queued)}, {"seconds", rounded(seconds)}};
        line["stages"] = Json::object();
        for (const auto& [stage, each] : stages) line["stages"][stage] = rounded(each);
        return write_line(dumped(line) + "\n");
    }
    char text[160];
    std::snprintf(text, sizeof text, " %d images=%zu queued=%.3f seconds=%.3f\n", status, images, queued, seconds);
    write_line(time_now() + " " + id + text);
}

void log_event(const std::string& sentence) { write_event("info", sentence); }

void log_warning(const std::string& sentence) { write_event("warning", sentence); }

}  // namespace himar::service
