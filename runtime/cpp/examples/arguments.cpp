#include "arguments.h"

#include <getopt.h>

#include <cerrno>
#include <cstdlib>

#include "labels.h"

namespace {

std::uint64_t seed_of(const std::string& text) {
    const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
    errno = 0;
    const unsigned long long value = digits ? std::strtoull(text.c_str(), nullptr, 10) : 0;
    if (!digits || errno != 0) throw UsageError("--seed is '" + text + "'; it must be a whole number from 0 to 2^64-1.");
    return value;
}

himar_guidance_schedule schedule_of(const std::string& text) {
    if (text == "linear") return HIMAR_GUIDANCE_LINEAR;
    if (text == "constant") return HIMAR_GUIDANCE_CONSTANT;
    throw UsageError("--guidance-schedule is '" + text + "'; it must be linear or constant.");
}

himar_solver solver_of(const std::string& option, const std::string& text) {
    if (text == "ddpm") return HIMAR_SOLVER_DDPM;
    if (text == "ddim") return HIMAR_SOLVER_DDIM;
    if (text == "dpm++") return HIMAR_SOLVER_DPMPP;
    throw UsageError(option + " is '" + text + "'; it must be ddpm, ddim or dpm++.");
}

const option kOptions[] = {
    {"labels", required_argument, nullptr, 0},          {"count", required_argument, nullptr, 0},
    {"seed", required_argument, nullptr, 0},            {"first-index", required_argument, nullptr, 0},
    {"sampling", required_argument, nullptr, 0},        {"guidance", required_argument, nullptr, 0},
    {"low-guidance", required_argument, nullptr, 0},    {"high-guidance", required_argument, nullptr, 0},
    {"temperature", required_argument, nullptr, 0},     {"guidance-schedule", required_argument, nullptr, 0},
    {"low-steps", required_argument, nullptr, 0},       {"high-steps", required_argument, nullptr, 0},
    {"low-diffusion-steps", required_argument, nullptr, 0}, {"high-diffusion-steps", required_argument, nullptr, 0},
    {"low-solver", required_argument, nullptr, 0},      {"high-solver", required_argument, nullptr, 0},
    {"device", required_argument, nullptr, 0},          {"backend", required_argument, nullptr, 0},
    {"threads", required_argument, nullptr, 0},         {"out", required_argument, nullptr, 0},
    {"repeat", required_argument, nullptr, 0},          {"json", no_argument, nullptr, 0},
    {"help", no_argument, nullptr, 0},                  {"version", no_argument, nullptr, 0},
    {nullptr, 0, nullptr, 0},
};

}  // namespace

Arguments read_arguments(int count, char** values) {
    Arguments read;
    himar::GenerateOptions& g = read.generate;
    constexpr std::int64_t most_steps = 1 << 30;
    opterr = 0;
    int place = 0;
    for (int found; (found = getopt_long(count, values, "", kOptions, &place)) != -1;) {
        if (found != 0) throw UsageError(std::string("'") + values[optind - 1] + "' is not an option, or lacks its value.");
        const std::string name = kOptions[place].name, text = optarg == nullptr ? "" : optarg, option = "--" + name;
        const auto steps = [&] { return static_cast<std::int32_t>(whole(option, text, 1, most_steps)); };
        if (name == "labels") read.labels = text;
        else if (name == "count") read.count = whole(option, text, 1, kMostLabels);
        else if (name == "seed") g.seed = seed_of(text);
        else if (name == "first-index") g.first_index = static_cast<std::uint64_t>(whole(option, text, 0, 0xFFFFFFFF));
        else if (name == "sampling") g.sampling = text;
        else if (name == "guidance") g.guidance = number(option, text);
        else if (name == "low-guidance") g.low_guidance = number(option, text);
        else if (name == "high-guidance") g.high_guidance = number(option, text);
        else if (name == "temperature") g.temperature = number(option, text);
        else if (name == "guidance-schedule") g.guidance_schedule = schedule_of(text);
        else if (name == "low-steps") g.low_steps = steps();
        else if (name == "high-steps") g.high_steps = steps();
        else if (name == "low-diffusion-steps") g.low_diffusion_steps = steps();
        else if (name == "high-diffusion-steps") g.high_diffusion_steps = steps();
        else if (name == "low-solver") g.low_solver = solver_of(option, text);
        else if (name == "high-solver") g.high_solver = solver_of(option, text);
        else if (name == "device") read.load.device = text;
        else if (name == "backend") read.load.backend = text;
        else if (name == "threads") read.load.threads = static_cast<std::int32_t>(whole(option, text, 1, 4096));
        else if (name == "out") read.out = text;
        else if (name == "repeat") read.repeat = whole(option, text, 1, kMostLabels);
        else if (name == "json") read.json = true;
        else if (name == "help") read.help = true;
        else if (name == "version") read.version = true;
    }
    if (read.help || read.version) return read;
    if (optind != count - 1) throw UsageError("give one bundle, a folder that `himar-export build` wrote.");
    read.bundle = values[optind];
    if (read.labels.empty()) throw UsageError("--labels is missing; write for example --labels 0,3,5-9.");
    read_labels(read.labels, read.count, nullptr);
    return read;
}

const char* help_text() {
    return "himar-generate BUNDLE --labels 0,3,5-9 [options]: make images of classes with the engines of BUNDLE.\n"
           "\n"
           "  --labels LIST            classes: numbers, ranges, and names where the bundle has them: 3,5-9,tench;\n"
           "                           digits are always a number\n"
           "  --count N                images of each class (1)\n"
           "  --seed N                 same seed, same images (0)\n"
           "  --first-index N          image index of the first image (0)\n"
           "  --out FOLDER             write SEED-INDEX-LABEL.png there, each with its recipe; or FILE.png for one image\n"
           "  --repeat N               generate N times and report latency percentiles (1)\n"
           "  --sampling NAME          one of the bundle's settings; its first if not given\n"
           "  --guidance, --low-guidance, --high-guidance, --temperature X\n"
           "  --guidance-schedule linear|constant\n"
           "  --low-steps, --high-steps, --low-diffusion-steps, --high-diffusion-steps N\n"
           "  --low-solver, --high-solver ddpm|ddim|dpm++\n"
           "  --device cpu             where the engines run: cpu, cuda or cuda:N\n"
           "  --backend onnxruntime    run the bundle's ONNX graphs whatever it was built for\n"
           "  --threads N              CPU threads of one engine run; by default the CPUs it may use\n"
           "                           (affinity, OMP_NUM_THREADS, container quota)\n"
           "  --json                   print the outcome as JSON\n"
           "  --version, --help\n"
           "\n"
           "Exit code: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.\n";
}
