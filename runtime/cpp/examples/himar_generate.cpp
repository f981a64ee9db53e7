// himar-generate: a bundle, labels or prompts and a seed → PNGs, with start-up time, latency percentiles and memory.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "arguments.h"
#include "edited.h"
#include "himar/himar.hpp"
#include "labels.h"
#include "output.h"
#include "texts.h"

namespace {

volatile std::sig_atomic_t stop = 0;

// The first signal ends the run after its step, a second one at once.
void interrupt(int) {
    if (stop != 0) _exit(130);
    stop = 1;
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The value that a share of the sorted values does not exceed (nearest rank).
double percentile(const std::vector<double>& sorted, double share) {
    const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
    return sorted[std::max<std::size_t>(rank, 1) - 1];
}

struct Times {
    double start_up = 0;
    std::vector<double> runs, outside_engines;  // seconds, and the share of them
};

void report(const Arguments& arguments, Times times, std::size_t images) {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const double megabytes = static_cast<double>(usage.ru_maxrss) / 1024;
    const double first = times.runs.front();
    std::sort(times.runs.begin(), times.runs.end());
    std::sort(times.outside_engines.begin(), times.outside_engines.end());
    const double p50 = percentile(times.runs, 0.5), p95 = percentile(times.runs, 0.95);
    const double p99 = percentile(times.runs, 0.99), outside = percentile(times.outside_engines, 0.5);
    char share[32];  // on a GPU nobody knows
    std::snprintf(share, sizeof share, "%.4f", outside);
    if (std::isnan(outside)) std::snprintf(share, sizeof share, "null");
    if (arguments.json) {
        std::printf("{\"images\": %zu, \"runs\": %zu, \"start_up_s\": %.4f, \"first_s\": %.4f, \"p50_s\": %.4f, "
                    "\"p95_s\": %.4f, \"p99_s\": %.4f, \"outside_engines\": %s, \"peak_mb\": %.1f}\n",
                    images, times.runs.size(), times.start_up, first, p50, p95, p99, share, megabytes);
        return;
    }
    std::printf("%zu images in %.3f s (%.4f s each); start-up %.3f s; ", images, p50, p50 / static_cast<double>(images),
                times.start_up);
    if (!std::isnan(outside)) std::printf("outside the engines %.1f %%; ", 100 * outside);
    std::printf("peak memory %.0f MB\n", megabytes);
    if (times.runs.size() > 1)
        std::printf("%zu runs: first %.3f s, p50 %.3f s, p95 %.3f s, p99 %.3f s\n", times.runs.size(), first, p50, p95, p99);
}

int generate(Arguments& arguments) {
    Times times;
    if (!arguments.out.empty()) prepare_output(arguments.out);
    himar::GenerateOptions& options = arguments.generate;
    std::optional<EditedImages> edited;
    if (arguments.edit.given()) edited.emplace(arguments.edit);
    const double start = now();
    himar::Pipeline pipeline = himar::Pipeline::load(arguments.bundle, arguments.load);
    times.start_up = now() - start;
    if (!arguments.out.empty() && pipeline.info().has_decoder == 0)
        throw himar::Error(HIMAR_ERROR_INPUT, arguments.bundle + " has no VAE decoder, so it produces latents, not images; "
                                              "build it again with --vae, or omit --out.");
    if (edited) {
        edited->prepare(pipeline.info().image_size, arguments.count);
        options.labels = read_class(arguments.edit, arguments.count, &pipeline);
        options.prompts = prompts_of(arguments);
    } else if (arguments.labels.empty()) {
        options.prompts = prompts_of(arguments);
    } else {
        options.labels = read_labels("--labels", arguments.labels, arguments.count, &pipeline);
    }
    const std::size_t images =
        edited ? static_cast<std::size_t>(arguments.count) : options.labels.size() + options.prompts.size();
    if (!arguments.out.empty()) check_output(arguments.out, images);
    options.on_step = [](const himar::Progress&) { return stop == 0; };
    for (std::int64_t run = 0; run < arguments.repeat; ++run) {
        const himar::Result result =
            edited ? pipeline.edit(edited->images(), edited->masks(), options, arguments.edit.how()) : pipeline.generate(options);
        if (run == 0) warn_truncated(result.truncated(), pipeline.info().context_length);
        // Also what was done before Ctrl-C.
        if (run == 0 && !arguments.out.empty()) write_images(arguments.out, options, result, arguments.edit.given());
        if (result.cancelled()) {
            std::fprintf(stderr, "stopped after %zu finished images.\n", result.labels().size());
            return 130;
        }
        times.runs.push_back(result.seconds());
        times.outside_engines.push_back(1 - result.engine_seconds() / result.seconds());
    }
    report(arguments, times, images);
    return 0;
}

}  // namespace

int main(int count, char** values) {
    std::signal(SIGINT, interrupt);
    std::signal(SIGTERM, interrupt);
    Arguments arguments;
    try {
        arguments = read_arguments(count, values);
        if (arguments.help || arguments.version) {
            std::fputs(arguments.help ? help_text() : himar_build_info(), stdout);
            if (arguments.version) std::fputs("\n", stdout);
            return 0;
        }
        if (arguments.tokens.empty()) return generate(arguments);
        print_tokens(arguments.tokens, read_texts(arguments.texts));
        return 0;
    } catch (const UsageError& error) {
        std::fprintf(stderr, "himar-generate: %s Try --help.\n", error.what());
        return 2;
    } catch (const std::bad_alloc&) {
        std::fprintf(stderr, "himar-generate: no memory is left for so many images; ask for fewer at once.\n");
        return 1;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "himar-generate: %s\n", error.what());
        return 1;
    }
}
