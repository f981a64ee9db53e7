// himar-bench: times a request of himar-generate, again and again, as `himar-export bench` times Python's.
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "arguments.h"
#include "himar/himar.hpp"
#include "labels.h"
#include "texts.h"
#include "timing.h"

namespace {

volatile std::sig_atomic_t stop = 0;

// The first signal ends the program after its run, a second one at once.
void interrupt(int) {
    if (stop != 0) _exit(130);
    stop = 1;
}

constexpr double kWarmUpSeconds = 3;

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// What this program does not take of himar-generate's command line. UsageError.
void check(const Arguments& arguments) {
    if (!arguments.tokens.empty() || arguments.edit.given())
        throw UsageError("--tokens and --edit are himar-generate's alone; give --labels or prompts.");
    if (arguments.repeat < 2)
        throw UsageError("--repeat is missing or 1; give how many runs to time, at least 2, for example --repeat 20.");
    if (!arguments.out.empty()) throw UsageError("--out is himar-generate's alone: this program writes no image.");
}

void report(const nlohmann::json& found) {
    std::printf("%d images a run, %d runs: %.4f s per image, %.2f images/s; start-up %.3f s, first %.3f s, peak memory %.0f MB\n",
                found["images"].get<int>(), found["runs"].get<int>(), found["seconds_per_image"].get<double>(),
                found["images_per_second"].get<double>(), found["start_up_s"].get<double>(), found["first_s"].get<double>(),
                found["peak_mb"].get<double>());
    std::printf("a run: least %.4f s, median %.4f s, mean %.4f s", found["least_s"].get<double>(),
                found["median_s"].get<double>(), found["mean_s"].get<double>());
    for (const char* name : {"p90", "p95", "p99"}) {
        const nlohmann::json& value = found[std::string(name) + "_s"];
        if (!value.is_null()) std::printf(", %s %.4f s", name, value.get<double>());
    }
    std::printf(", CV %.1f %%\n", 100 * found["variation"].get<double>());
    if (!found["settled"].get<bool>())
        std::printf("the warm-up of %d runs did not settle.\n", found["warm_up_runs"].get<int>());
}

int bench(Arguments& arguments) {
    check(arguments);
    himar::GenerateOptions& options = arguments.generate;
    const double start = now();
    himar::Pipeline pipeline = himar::Pipeline::load(arguments.bundle, arguments.load);
    const double start_up = now() - start;
    if (arguments.labels.empty())
        options.prompts = prompts_of(arguments);
    else
        options.labels = read_labels("--labels", arguments.labels, arguments.count, &pipeline);
    const std::size_t images = options.labels.size() + options.prompts.size();
    bool first = true;
    const Run run = [&]() -> std::optional<double> {
        const himar::Result result = pipeline.generate(options);
        if (first) warn_truncated(result.truncated(), pipeline.info().context_length);
        first = false;
        if (stop != 0) return std::nullopt;
        return result.seconds();
    };
    // No callback of steps: with one a GPU's lane would run a step behind the device.
    const std::optional<WarmUp> warm = warm_up(run, kWarmUpSeconds);
    std::vector<double> seconds;
    while (warm && static_cast<std::int64_t>(seconds.size()) < arguments.repeat) {
        const std::optional<double> each = run();
        if (!each) break;
        seconds.push_back(*each);
    }
    if (static_cast<std::int64_t>(seconds.size()) < arguments.repeat) {
        std::fprintf(stderr, "stopped after %zu timed runs.\n", seconds.size());
        return 130;
    }
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const Summary summary = summarise(seconds);
    const auto or_null = [](const std::optional<double>& value) {
        return value ? nlohmann::json(*value) : nlohmann::json(nullptr);
    };
    const nlohmann::json found = {
        {"images", images}, {"runs", seconds.size()}, {"start_up_s", start_up}, {"first_s", warm->seconds.front()},
        {"warm_up_runs", warm->seconds.size()}, {"settled", warm->stable}, {"least_s", summary.least},
        {"median_s", summary.median}, {"mean_s", summary.mean}, {"p90_s", or_null(summary.p90)},
        {"p95_s", or_null(summary.p95)}, {"p99_s", or_null(summary.p99)}, {"variation", summary.variation},
        {"seconds_per_image", summary.median / static_cast<double>(images)},
        {"images_per_second", static_cast<double>(images) / summary.median},
        {"peak_mb", static_cast<double>(usage.ru_maxrss) / 1024}, {"seconds", seconds}};
    if (arguments.json)
        std::printf("%s\n", found.dump().c_str());
    else
        report(found);
    return 0;
}

constexpr const char* kHelp =
    "himar-bench BUNDLE --labels 0,3,5-9 --repeat N [options]: time how long a request takes with the engines of BUNDLE.\n"
    "\n"
    "Runs it until its time settles (three runs within 10 %, at most 3 s or 50 runs), then N times, and prints seconds per\n"
    "image and the percentiles of `himar-export bench`: p90, p95 and p99 need 10, 20 and 100 runs.\n"
    "\n"
    "  --repeat N               timed runs, at least 2\n"
    "  --json                   print JSON, with the seconds of every run\n"
    "\n"
    "Labels or prompts, sampling, device and threads are options of himar-generate: see its --help.\n"
    "\n"
    "Exit code: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C, after a run; a second one stops at once.\n";

}  // namespace

int main(int count, char** values) {
    std::signal(SIGINT, interrupt);
    std::signal(SIGTERM, interrupt);
    try {
        Arguments arguments = read_arguments(count, values);
        if (arguments.help || arguments.version) {
            std::printf("%s%s", arguments.help ? kHelp : himar_build_info(), arguments.help ? "" : "\n");
            return 0;
        }
        return bench(arguments);
    } catch (const UsageError& error) {
        std::fprintf(stderr, "himar-bench: %s Try --help.\n", error.what());
        return 2;
    } catch (const std::bad_alloc&) {
        std::fprintf(stderr, "himar-bench: no memory is left for so many images; ask for fewer at once.\n");
        return 1;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "himar-bench: %s\n", error.what());
        return 1;
    }
}
