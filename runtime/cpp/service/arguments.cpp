#include "arguments.h"

#include "command_line.h"
#include "origins.h"
#include "paths.h"
#include "tokens.h"

namespace {

constexpr double kMostSeconds = 1e6, kMostDelay = 1e4;

Option milliseconds_option(const std::string& name, double& to) {
    return {name, [&to](const std::string& option, const std::string& text) {
                to = number(option, text);
                if (to < 0 || to > kMostDelay)
                    throw UsageError(option + " is '" + text + "'; it must be from 0 to 10000 milliseconds.");
            }};
}

Option seconds_option(const std::string& name, double& to, bool zero_is_fine) {
    return {name, [&to, zero_is_fine](const std::string& option, const std::string& text) {
                to = number(option, text);
                if (to < 0 || to > kMostSeconds || (to == 0 && !zero_is_fine))
                    throw UsageError(option + " is '" + text + "'; it must be " +
                                     (zero_is_fine ? "from 0" : "more than 0, and up") + " to 1000000 seconds.");
            }};
}

std::string allowed_origin(const std::string& text) {
    const auto origin = himar::service::origin_of(text);
    if (!origin)
        throw UsageError("--allow-origin: '" + text + "' is not an origin; write SCHEME://HOST or SCHEME://HOST:PORT without a "
                         "path, or *.");
    return *origin;
}

std::vector<std::string> tokens_of(const std::string& path) {
    try {
        return himar::service::read_tokens(path);
    } catch (const std::runtime_error& error) {
        throw UsageError(std::string("--token-file: ") + error.what());
    }
}

std::string root_of(const std::string& text) {
    if (!text.empty() && !himar::service::paths::is_root(text))
        throw UsageError("--root-path: '" + text + "' is not a prefix of paths; write it like /himar, without a / at its end.");
    return text;
}

}  // namespace

Arguments read_arguments(int count, char** values) {
    Arguments read;
    const std::vector<std::string> rest = read_options(count, values, {
        text_option("host", read.host),
        whole_option("port", read.port, 0, 65535),
        whole_option("lanes", read.lanes, 1, 64),
        text_option("device", read.load.device),
        whole_option("threads", read.load.threads, 0, 4096),
        text_option("backend", read.load.backend),
        whole_option("queue", read.queue, 1, 256),
        whole_option("max-batch", read.max_batch, 1, 65536),
        milliseconds_option("queue-delay", read.queue_delay),
        whole_option("max-images", read.max_images, 1, 65536),
        whole_option("max-body", read.max_body, 1, std::int64_t{1} << 30),
        seconds_option("timeout", read.timeout, false),
        seconds_option("drain-seconds", read.drain_seconds, true),
        seconds_option("keep-alive", read.keep_alive, true),
        {"allow-origin", [&](const auto&, const std::string& text) { read.allow_origin.push_back(allowed_origin(text)); }},
        {"token-file", [&](const auto&, const std::string& path) { read.tokens = tokens_of(path); }},
        {"root-path", [&](const auto&, const std::string& text) { read.root_path = root_of(text); }},
        flag("log-json", read.log_json),
        flag("help", read.help),
        flag("version", read.version),
    });
    if (!read.help && !read.version) read.bundle = bundle_of(rest);
    return read;
}

const char* help_text() {
    return "himar-serve BUNDLE [options]: an HTTP service that makes images with the engines of BUNDLE.\n"
           "\n"
           "  --host ADDRESS           where to listen (127.0.0.1)\n"
           "  --port N                 0 picks a free one (8000)\n"
           "  --lanes N                calls of the engines that run at once, each with its own buffers (1)\n"
           "  --queue N                requests that may wait for each lane; more are answered 429 (64)\n"
           "  --max-batch N            most images of requests that run in one call; 1 joins none (as many as the\n"
           "                           bundle's engines take and the memory has room for)\n"
           "  --queue-delay MS         milliseconds that a request waits at most for others to join it, where the call\n"
           "                           before had several (5)\n"
           "  --max-images N           maximum images in one request (64)\n"
           "  --max-body BYTES         maximum size of a request's body (1048576); an edit's may have two uncompressed\n"
           "                           images more\n"
           "  --timeout SECONDS        from acceptance to answer; then 504 (60)\n"
           "  --drain-seconds SECONDS  after SIGTERM or Ctrl-C, time to finish what is accepted (30)\n"
           "  --keep-alive SECONDS     that a connection may be idle between two requests; more than a proxy in front\n"
           "                           allows; 0 closes each after its answer (75)\n"
           "  --allow-origin ORIGIN    of web pages that may use the server, for example https://app.example; * for\n"
           "                           all; may be repeated\n"
           "  --token-file FILE        of tokens, one a line; requests need one as 'Authorization: Bearer TOKEN', but for\n"
           "                           health and metrics\n"
           "  --root-path /PATH        prefix that a proxy leaves before each path, for example /himar; paths without it\n"
           "                           are answered too\n"
           "  --log-json               write the log as JSON lines\n"
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
           "On a CPU, HIMAR_ORT_PACKED=1 in the environment keeps weights packed on the disk, in himar's folder of the\n"
           "user's cache: later starts are faster, and servers of one bundle share them. It takes up to three times\n"
           "their size.\n"
           "\n"
           "Exit code: 0 stopped by a signal and drained, 1 failed, 2 wrong usage.\n";
}
