#include "arguments.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>

#include "labels.h"
#include "text.h"
#include "texts.h"

namespace {

void take_seed(std::uint64_t& seed, const std::string& text) {
    const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
    errno = 0;
    seed = digits ? std::strtoull(text.c_str(), nullptr, 10) : 0;
    if (!digits || errno != 0) throw UsageError("--seed is '" + text + "'; it must be a whole number from 0 to 2^64-1.");
}

// low_steps is --low-steps.
std::string dashed(std::string name) {
    std::replace(name.begin(), name.end(), '_', '-');
    return name;
}

// An option for each kind of himar.h's list of settings.
Option steps_option(const char* name, std::optional<std::int32_t>& to) { return whole_option(dashed(name), to, 1, 1 << 30); }

Option diffusion_steps_option(const char* name, std::optional<std::int32_t>& to) { return steps_option(name, to); }

Option interval_option(const char* name, std::optional<std::int32_t>& to) { return whole_option(dashed(name), to, 1, 1000); }

Option order_option(const char* name, std::optional<std::int32_t>& to) { return whole_option(dashed(name), to, 0, 2); }

// Numbers with commas between them, each as `read` writes it in JSON.
template <class Read>
Option numbers_option(const char* name, std::optional<std::string>& to, Read read) {
    return {dashed(name), [&to, read](const std::string& option, const std::string& text) {
                std::vector<std::string> numbers;
                for (const std::string& each : himar::core::split(text, ",")) numbers.push_back(read(option, each));
                to = "[" + himar::core::joined(numbers) + "]";
            }};
}

Option step_counts_option(const char* name, std::optional<std::string>& to) {
    return numbers_option(name, to, [](const std::string& option, const std::string& text) {
        return std::to_string(whole(option, text, 2, 1000));
    });
}

Option scale_option(const char* name, std::optional<double>& to) {
    return {dashed(name), [&to](const std::string& option, const std::string& text) { to = number(option, text); }};
}

Option least_scale_option(const char* name, std::optional<double>& to) { return scale_option(name, to); }

Option scales_option(const char* name, std::optional<std::string>& to) {
    return numbers_option(name, to, [](const std::string& option, const std::string& text) {
        const double value = number(option, text);
        if (std::isinf(value)) throw UsageError(option + " is '" + text + "'; it must be a finite number.");
        return himar::core::shown(value);
    });
}

template <class Enumeration>
Option word_option(const char* name, Enumeration& to) {
    return {dashed(name), [&to](const std::string& option, const std::string& text) {
                const auto value = himar::named<Enumeration>(text);
                if (!value)
                    throw UsageError(option + " is '" + text + "'; it must be " +
                                     himar::core::alternatives(himar::words_of(to), "") + ".");
                to = *value;
            }};
}

Option schedule_option(const char* name, himar_guidance_schedule& to) { return word_option(name, to); }

Option solver_option(const char* name, himar_solver& to) { return word_option(name, to); }

Option switch_option(const char* name, std::optional<bool>& to) {
    return {dashed(name), [&to](const auto&, const auto&) { to = true; }, false};
}

}  // namespace

Arguments read_arguments(int count, char** values) {
    Arguments read;
    himar::GenerateOptions& g = read.generate;
    std::vector<Option> options = {
        text_option("labels", read.labels),
        {"prompt", [&](const auto&, const std::string& text) { read.prompts.push_back(text); }},
        text_option("prompts-file", read.prompts_file),
        whole_option("count", read.count, 1, kMostLabels),
        {"seed", [&](const auto&, const std::string& text) { take_seed(g.seed, text); }},
        whole_option("first-index", g.first_index, 0, 0xFFFFFFFF),
        text_option("sampling", g.sampling),
        text_option("device", read.load.device),
        text_option("backend", read.load.backend),
        whole_option("threads", read.load.threads, 1, 4096),
        text_option("out", read.out),
        whole_option("repeat", read.repeat, 1, kMostLabels),
        text_option("tokens", read.tokens),
        text_option("texts", read.texts),
        flag("json", read.json),
        flag("help", read.help),
        flag("version", read.version),
        scale_option("guidance", g.guidance),
    };
#define HIMAR_OPTION(kind, name) options.push_back(kind##_option(#name, g.name));
    HIMAR_HI_MAR_SETTINGS(HIMAR_OPTION)
#undef HIMAR_OPTION
    options.insert(options.end(), {whole_option("top-k", g.top_k, 0, 1 << 30), scale_option("top_p", g.top_p),
                                   text_option("schedule", g.schedule), scale_option("mask_guidance", g.mask_guidance),
                                   switch_option("all_scales", g.all_scales), switch_option("smooth", g.smooth)});
    for (Option& each : read.edit.options()) options.push_back(std::move(each));
    const std::vector<std::string> rest = read_options(count, values, options);
    if (read.help || read.version) return read;
    if (read.tokens.empty() != read.texts.empty())
        throw UsageError("--tokens and --texts go together; write --tokens FOLDER --texts TEXTS.json.");
    if (!read.tokens.empty()) {
        if (!rest.empty()) throw UsageError("--tokens takes no bundle beside its folder, but '" + rest.front() + "' is given.");
        return read;
    }
    read.bundle = bundle_of(rest);
    const bool from_text = !read.prompts.empty() || !read.prompts_file.empty();
    read.edit.check(read.labels, read.prompts, read.prompts_file);
    if (read.edit.given()) {
        read_class(read.edit, read.count, nullptr);
        return read;
    }
    if (from_text && !read.labels.empty())
        throw UsageError("--labels and prompts are both given; give --labels for a model of classes, --prompt or "
                         "--prompts-file for one from text.");
    if (from_text) return read;
    if (read.labels.empty())
        throw UsageError("--labels is missing; write for example --labels 0,3,5-9, or --prompt TEXT for a model from text.");
    read_labels("--labels", read.labels, read.count, nullptr);
    return read;
}

std::vector<std::string> prompts_of(const Arguments& arguments) {
    std::vector<std::string> once = arguments.prompts, prompts;
    if (!arguments.prompts_file.empty())
        for (std::string& prompt : read_prompts(arguments.prompts_file)) once.push_back(std::move(prompt));
    if (static_cast<std::int64_t>(once.size()) > kMostLabels / arguments.count)
        throw UsageError("the prompts and --count ask for more than " + std::to_string(kMostLabels) +
                         " images in one run; ask for fewer, and continue with --first-index.");
    for (const std::string& prompt : once) prompts.insert(prompts.end(), static_cast<std::size_t>(arguments.count), prompt);
    return prompts;
}

const char* help_text() {
    return "himar-generate BUNDLE --labels 0,3,5-9 [options]: make images of classes with the engines of BUNDLE.\n"
           "himar-generate BUNDLE --edit IMAGE.png --mask MASK.png [options]: draw a part of an image anew.\n"
           "himar-generate --tokens FOLDER --texts TEXTS.json: print the token ids of texts, a JSON list, by the tokenizer\n"
           "  of a CLIP model's FOLDER, or of a bundle.\n"
           "\n"
           "  --labels LIST            classes: numbers, ranges, and names where the bundle has them: 3,5-9,tench;\n"
           "                           digits are always a number\n"
           "  --prompt TEXT            text of an image, of a model from text, in place of --labels; may be repeated\n"
           "  --prompts-file FILE      texts: one a line, or a JSON list where the name ends in .json\n"
           "  --count N                images of each class or text, or variants of an edit (1)\n"
           "  --edit IMAGE.png         draw a part of this image anew; all other pixels stay as they are\n"
           "  --mask MASK.png          of the same size: white (128 or more) is drawn, black stays\n"
           "  --place LEFT,TOP|centre  put a smaller image there on a canvas of the model's size, and draw around it too;\n"
           "                           a mask is not needed then\n"
           "  --class CLASS            class that an edit is to show, or --prompt TEXT; without them what fits the rest is drawn\n"
           "  --dilation N             of Hi-MAR: rings of cells around the mask's that an edit draws too (0)\n"
           "  --feather N              pixels inside the mask's border over which an edit is blended in (0)\n"
           "  --seed N                 same seed, same images (0)\n"
           "  --first-index N          image index of the first image (0)\n"
           "  --out FOLDER             write SEED-INDEX-LABEL.png (-text.png) there, each with its recipe; or FILE.png for one image\n"
           "  --repeat N               generate N times and report latency percentiles (1)\n"
           "  --sampling NAME          one of the bundle's settings; its first if not given\n"
           "  --guidance X             scale of guidance, as the model's family counts it\n"
           "  of Hi-MAR: --low-guidance, --high-guidance, --temperature X, --guidance-schedule linear|constant,\n"
           "             --low-steps, --high-steps, --low-diffusion-steps, --high-diffusion-steps N,\n"
           "             --low-solver, --high-solver ddpm|ddim|dpm++,\n"
           "             --low-diffusion-counts, --high-diffusion-counts N,N,… diffusion steps of each step of a phase,\n"
           "             --low-guidances, --high-guidances X,X,… scale of each step of a phase,\n"
           "             --least-guidance X steps of a smaller scale run without guidance,\n"
           "             --low-forecast, --high-forecast N evaluate a head at every N-th index, forecast it between,\n"
           "             --forecast-order 0|1|2, --forecast-first, --forecast-last N,\n"
           "             --guidance-interval N both halves in one of N evaluations\n"
           "             --modulation-interval N a DiT head's modulations in one of N evaluations, held in the others\n"
           "  of HMAR:   --top-k N, --top-p X, --mask-guidance X, --all-scales, --smooth,\n"
           "             --schedule '[[1], [1, 3]]' counts of cells that a scale's forwards fix\n"
           "  --device cpu             where the engines run: cpu, cuda or cuda:N\n"
           "  --backend onnxruntime    run the bundle's ONNX graphs whatever it was built for\n"
           "  --threads N              CPU threads of one engine run; by default the CPUs it may use\n"
           "                           (affinity, OMP_NUM_THREADS, container quota)\n"
           "  --json                   print the outcome as JSON\n"
           "  --version, --help\n"
           "\n"
           "Exit code: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C, after a step; a second one stops at once.\n";
}
