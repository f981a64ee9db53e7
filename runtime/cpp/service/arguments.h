// The command line of himar-serve.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "himar/himar.hpp"

struct Arguments {
    std::string bundle;
    himar::LoadOptions load;
    std::string host = "127.0.0.1";
    int port = 8000;               // 0 takes any free one
    std::size_t lanes = 1;
    std::size_t queue = 64;        // waiting requests per lane
    std::size_t max_batch = 0;     // images of requests that run in one call; 0 for as many as there is room for
    double queue_delay = 5;        // milliseconds that a request waits at most for others to join it
    std::size_t max_images = 64;   // per request
    std::size_t max_body = 1 << 20;  // bytes
    double timeout = 60;           // seconds from acceptance to answer
    double drain_seconds = 30;
    double keep_alive = 75;  // seconds that a connection may be idle between two requests
    std::vector<std::string> allow_origin;
    std::vector<std::string> tokens;  // of --token-file; none: requests need none
    std::string root_path;            // "" or "/PART…"
    bool log_json = false;
    bool help = false, version = false;
};

// Read the command line; UsageError names what is wrong with it.
Arguments read_arguments(int count, char** values);

// What --help prints.
const char* help_text();
