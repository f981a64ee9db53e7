// The command line of himar-generate, whose request himar-bench takes too.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "command_line.h"
#include "edited.h"
#include "himar/himar.hpp"

struct Arguments {
    std::string bundle;
    himar::LoadOptions load;
    himar::GenerateOptions generate;  // without its labels, which the bundle may have names for, and without its prompts
    std::string labels;               // for read_labels
    std::vector<std::string> prompts;
    std::string prompts_file;
    EditArguments edit;               // instead of labels
    std::int64_t count = 1;           // images of each, or variants of an edit
    std::string out;                  // folder, or .png for one image; "" writes nothing
    std::int64_t repeat = 1;
    std::string tokens, texts;  // print the tokens of a file's texts: a tokenizer's folder, the file
    bool json = false, help = false, version = false;
};

// Read the command line; UsageError names what is wrong with it.
Arguments read_arguments(int count, char** values);

// The prompts of the command line and of its file, each as often as it asks for. UsageError for more than
// kMostLabels of them, and what read_prompts throws.
std::vector<std::string> prompts_of(const Arguments& arguments);

// What --help prints.
const char* help_text();
