// Generates in two threads from C++, with progress: lanes BUNDLE
#include <himar/himar.hpp>

#include <cstdio>
#include <thread>

int main(int count, char** arguments) try {
    if (count != 2) return std::fprintf(stderr, "use: %s BUNDLE\n", arguments[0]), 2;
    himar::Pipeline pipeline = himar::Pipeline::load(arguments[1]);
    const auto draw = [](himar::Pipeline lane, std::int64_t label) {
        himar::GenerateOptions options;
        options.labels = {label};
        options.seed = 7;
        options.on_step = [label](const himar::Progress& step) {
            std::printf("class %lld: step %lld of %lld\n", static_cast<long long>(label),
                        static_cast<long long>(step.done), static_cast<long long>(step.total));
            return true;  // false cancels
        };
        const himar::Result result = lane.generate(options);
        std::printf("%s\n", result.recipe(0).c_str());
    };
    std::thread other(draw, pipeline.clone(), 3);  // a clone shares the weights and has its own buffers
    draw(pipeline.clone(), 7);
    other.join();
    return 0;
} catch (const himar::Error& error) {
    return std::fprintf(stderr, "error: %s\n", error.what()), 1;
}
