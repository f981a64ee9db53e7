#include "log.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <ctime>

namespace himar::service {
namespace {

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

// One call, so that lines of several threads never mix; what cannot be written is lost; the service continues.
void write_line(const std::string& line) {
    const std::string whole = time_now() + " " + line + "\n";
    const ssize_t written = ::write(STDERR_FILENO, whole.data(), whole.size());
    static_cast<void>(written);
}

}  // namespace

void log_answer(const std::string& id, int status, std::size_t images, double queued, double seconds) {
    char text[160];
    std::snprintf(text, sizeof text, " %d images=%zu queued=%.3f seconds=%.3f", status, images, queued, seconds);
    write_line(id + text);
}

void log_event(const std::string& sentence) { write_line("himar-serve: " + sentence); }

}  // namespace himar::service
