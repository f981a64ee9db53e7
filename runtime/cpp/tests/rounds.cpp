// himar_rounds BUNDLE ROUNDS: loads, clones, generates, previews, cancels and frees, again and again, for a leak checker.
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "himar/himar.hpp"

namespace {

void round(const char* path) {
    himar::LoadOptions load;
    load.threads = 1;
    himar::Pipeline pipeline = himar::Pipeline::load(path, load);
    himar::Pipeline lane = pipeline.clone();
    himar::GenerateOptions options;
    options.labels = {0, 1};
    options.low_steps = options.high_steps = 1;
    options.low_diffusion_steps = options.high_diffusion_steps = 2;
    options.on_step = [](const himar::Progress& step) { return !step.preview().empty(); };
    if (lane.generate(options).images().empty()) std::abort();
    options.on_step = [](const himar::Progress&) { return false; };
    if (!lane.generate(options).cancelled()) std::abort();
    options.labels = {-1};
    try {
        lane.generate(options);
        std::abort();
    } catch (const himar::Error&) {
    }
}

}  // namespace

int main(int count, char** values) {
    const int rounds = count == 3 ? std::atoi(values[2]) : 0;
    if (rounds < 1) {
        std::fputs("use: himar_rounds BUNDLE ROUNDS\n", stderr);
        return 2;
    }
    try {
        for (int i = 0; i < rounds; ++i) round(values[1]);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "himar_rounds: %s\n", error.what());
        return 1;
    }
    std::printf("%d rounds\n", rounds);
    return 0;
}
