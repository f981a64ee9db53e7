#include "arguments.h"

#include <getopt.h>

#include "command_line.h"
#include "origins.h"

namespace {

constexpr double kMostSeconds = 1e6;

const option kOptions[] = {
    {"host", required_argument, nullptr, 0},       {"port", required_argument, nullptr, 0},
    {"lanes", required_argument, nullptr, 0},      {"device", required_argument, nullptr, 0},
    {"threads", required_argument, nullptr, 0},    {"backend", required_argument, nullptr, 0},
    {"queue", required_argument, nullptr, 0},      {"max-images", required_argument, nullptr, 0},
    {"max-body", required_argument, nullptr, 0},   {"timeout", required_argument, nullptr, 0},
    {"drain-seconds", required_argument, nullptr, 0}, {"keep-alive", required_argument, nullptr, 0},
    {"allow-origin", required_argument, nullptr, 0},  {"help", no_argument, nullptr, 0},
    {"version", no_argument, nullptr, 0},          {nullptr, 0, nullptr, 0},
};

double seconds(const std::string& option, const std::string& text, bool zero_is_fine) {
    const double value = number(option, text);
    if (value < 0 || value > kMostSeconds || (value == 0 && !zero_is_fine))
        throw UsageError(option + " is '" + text + "'; it must be " + (zero_is_fine ? "from 0" : "more than 0, and up") +
                         " to 1000000 seconds.");
    return value;
}

std::string allowed_origin(const std::string& text) {
    const auto origin = himar::service::origin_of(text);
    if (!origin)
        throw UsageError("--allow-origin: '" + text + "' is not an origin; write SCHEME://HOST or SCHEME://HOST:PORT without a "
                         "path, or *.");
    return *origin;
}

}  // namespace

Arguments read_arguments(int count, char** values) {
    Arguments read;
    opterr = 0;
    int place = 0;
    for (int found; (found = getopt_long(count, values, "", kOptions, &place)) != -1;) {
        if (found != 0) throw UsageError(std::string("'") + values[optind - 1] + "' is not an option, or lacks its value.");
        const std::string name = kOptions[place].name, text = optarg == nullptr ? "" : optarg, option = "--" + name;
        const auto size = [&](std::int64_t most) { return static_cast<std::size_t>(whole(option, text, 1, most)); };
        if (name == "host") read.host = text;
        else if (name == "port") read.port = static_cast<int>(whole(option, text, 0, 65535));
        else if (name == "lanes") read.lanes = size(64);
        else if (name == "device") read.load.device = text;
        else if (name == "threads") read.load.threads = static_cast<std::int32_t>(whole(option, text, 0, 4096));
        else if (name == "backend") read.load.backend = text;
        else if (name == "queue") read.queue = size(256);
        else if (name == "max-images") read.max_images = size(65536);
        else if (name == "max-body") read.max_body = size(std::int64_t{1} << 30);
        else if (name == "timeout") read.timeout = seconds(option, text, false);
        else if (name == "drain-seconds") read.drain_seconds = seconds(option, text, true);
        else if (name == "keep-alive") read.keep_alive = seconds(option, text, true);
        else if (name == "allow-origin") read.allow_origin.push_back(allowed_origin(text));
        else if (name == "help") read.help = true;
        else if (name == "version") read.version = true;
    }
    if (read.help || read.version) return read;
    if (optind != count - 1) throw UsageError("give one bundle, a folder that `himar-export build` wrote.");
    read.bundle = values[optind];
    return read;
}

const char* help_text() {
    return "himar-serve BUNDLE [options]: an HTTP service that makes images with the engines of BUNDLE.\n"
           "\n"
           "  --host ADDRESS           where to listen (127.0.0.1)\n"
           "  --port N                 0 picks a free one (8000)\n"
           "  --lanes N                requests that run at once, each with its own buffers (1)\n"
           "  --queue N                requests that may wait for each lane; more are answered 429 (16)\n"
           "  --max-images N           maximum images in one request (64)\n"
           "  --max-body BYTES         maximum size of a request's body (1048576)\n"
           "  --timeout SECONDS        from acceptance to answer; then 504 (60)\n"
           "  --drain-seconds SECONDS  after SIGTERM or Ctrl-C, time to finish what is accepted (30)\n"
           "  --keep-alive SECONDS     that a connection may be idle between two requests; more than a proxy in front\n"
           "                           allows; 0 closes each after its answer (75)\n"
           "  --allow-origin ORIGIN    of web pages that may use the server, for example https://app.example; * for\n"
           "                           all; may be repeated\n"
           "  --device NAME            where the engines run: cpu, cuda or cuda:N (cpu)\n"
           "  --threads N              CPU threads of one engine run; 0: the CPUs it may use (affinity,\n"
           "                           OMP_NUM_THREADS, container quota) (0)\n"
           "  --backend onnxruntime    run the bundle's ONNX graphs whatever it was built for\n"
           "  --version, --help\n"
           "\n"
           "    himar-serve demo/digits --lanes 4 --threads 1\n"
           "    curl -d '{\"labels\": [7]}' -H 'Content-Type: application/json' -H 'Accept: image/png' \\\n"
           "         http://127.0.0.1:8000/v1/images --output 7.png\n"
           "\n"
           "Exit code: 0 stopped by a signal and drained, 1 failed, 2 wrong usage.\n";
}
