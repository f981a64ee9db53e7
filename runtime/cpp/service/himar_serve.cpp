// himar-serve: an HTTP service that makes images with a bundle's engines. SIGTERM and SIGINT drain it.
#include <malloc.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "arguments.h"
#include "command_line.h"
#include "log.h"
#include "service.h"

namespace {

using himar::service::Clock;
using himar::service::log_as_json;
using himar::service::log_event;
using himar::service::log_warning;
using himar::service::Service;
using himar::service::Settings;

// Blocked in every thread, so that only `main` takes them, when it asks.
sigset_t block_signals() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    return signals;
}

// Many threads answer requests in turn, and glibc would give them up to eight arenas a core, each of which keeps the most
// that it ever held: memory would creep up for thousands of requests.
void share_arenas() {
#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, 2);
#endif
}

// The lanes, and the most images of requests that run in one call. himar::Error for more than the bundle's engines take, or
// than there is memory for.
std::pair<std::vector<himar::Pipeline>, std::size_t> load_lanes(const Arguments& arguments) {
    auto [first, batch] = himar::Pipeline::load_lanes(arguments.bundle, arguments.load,
                                                      static_cast<std::int64_t>(arguments.lanes),
                                                      static_cast<std::int64_t>(arguments.max_batch));
    std::vector<himar::Pipeline> lanes;
    lanes.push_back(std::move(first));
    while (lanes.size() < arguments.lanes) lanes.push_back(lanes.front().clone());
    return {std::move(lanes), static_cast<std::size_t>(batch)};
}

Settings settings_of(const Arguments& arguments, std::size_t batch) {
    Settings settings;
    settings.limits = {arguments.max_images, arguments.queue, arguments.timeout, batch, arguments.queue_delay / 1000};
    settings.max_body = arguments.max_body;
    settings.device = arguments.load.device;
    settings.keep_alive = arguments.keep_alive;
    settings.allow_origin = arguments.allow_origin;
    settings.bundle = arguments.bundle;
    settings.tokens = arguments.tokens;
    settings.root_path = arguments.root_path;
    return settings;
}

// The way down waits for the threads that still read requests and write answers. A client that sends or takes a byte now
// and then would hold one of them for ever: another signal, or the end of this time, leaves such clients behind.
void end_without_slow_clients(const sigset_t& signals) {
    std::thread([signals] {
        const timespec most{5, 0};
        while (sigtimedwait(&signals, nullptr, &most) < 0 && errno == EINTR) continue;
        log_event("stopped, with clients that were slow to send or to read.");
        std::_Exit(0);
    }).detach();
}

// Finish what is accepted; a second signal, or the end of the time, gives up the rest.
void drain(Service& service, const sigset_t& signals, double seconds) {
    constexpr auto look = std::chrono::milliseconds(50);
    const timespec at_once{};
    const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    service.drain();
    while (!service.wait_until_idle(std::min(end, Clock::now() + look)) && Clock::now() < end)
        if (sigtimedwait(&signals, nullptr, &at_once) > 0) break;
    end_without_slow_clients(signals);
    service.stop();
}

int serve(const Arguments& arguments, const sigset_t& signals) {
    himar_set_warning_callback([](const char* sentence, void*) { log_warning(sentence); }, nullptr);
    auto [lanes, batch] = load_lanes(arguments);
    const Settings settings = settings_of(arguments, batch);
    Service service(std::move(lanes), settings);
    const int port = service.start(arguments.host, arguments.port);
    std::printf("himar-serve: listening on http://%s:%d\n", arguments.host.c_str(), port);
    std::fflush(stdout);
    int signal = 0;
    sigwait(&signals, &signal);
    log_event(std::string(signal == SIGINT ? "SIGINT" : "SIGTERM") + ": finishing what is accepted.");
    drain(service, signals, arguments.drain_seconds);
    log_event("stopped.");
    return 0;
}

}  // namespace

int main(int count, char** values) {
    try {
        const Arguments arguments = read_arguments(count, values);
        if (arguments.help || arguments.version) {
            std::printf("%s", arguments.help ? help_text() : (std::string(himar_build_info()) + "\n").c_str());
            return 0;
        }
        if (arguments.log_json) log_as_json();
        share_arenas();
        return serve(arguments, block_signals());
    } catch (const UsageError& error) {
        std::fprintf(stderr, "himar-serve: %s See himar-serve --help.\n", error.what());
        return 2;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "himar-serve: %s\n", error.what());
        return 1;
    }
}
