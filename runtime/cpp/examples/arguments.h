// The command line of himar-generate.
#pragma once

#include <cstdint>
#include <string>

#include "command_line.h"
#include "himar/himar.hpp"

struct Arguments {
    std::string bundle;
    himar::LoadOptions load;
    himar::GenerateOptions generate;  // labels already repeated by --count
    std::string out;                  // folder; "" writes nothing
    std::int64_t repeat = 1;
    bool json = false, help = false, version = false;
};

// Read the command line; UsageError names what is wrong with it.
Arguments read_arguments(int count, char** values);

// What --help prints.
const char* help_text();
