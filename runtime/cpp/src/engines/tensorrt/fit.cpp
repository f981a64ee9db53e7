#include "engines/tensorrt/fit.h"

#include <algorithm>
#include <utility>

#include "error.h"
#include "text.h"

namespace himar::core {
namespace {

// Of "9.0"; the manifest's reader has checked the form. Numbers of any length compare as such.
bool is_below(const std::string& a, const std::string& b) {
    const auto part = [](const std::string& text, bool first) {
        const std::size_t dot = text.find('.');
        const std::string digits = first ? text.substr(0, dot) : text.substr(dot + 1);
        const std::string number = digits.substr(std::min(digits.find_first_not_of('0'), digits.size()));
        return std::make_pair(number.size(), number);
    };
    return std::make_pair(part(a, true), part(a, false)) < std::make_pair(part(b, true), part(b, false));
}

[[noreturn]] void refuse(const std::string& name, const std::string& built_for, const std::string& here) {
    throw EngineError("the engine of " + name + " was built for GPUs of " + built_for + ", but this one has " + here +
                      "; build the bundle again on this machine, or with the backend onnxruntime, whose engines run on "
                      "any GPU.");
}

}  // namespace

void check_fit(const std::string& name, const BackendInfo& built, const TensorRTVersion& library,
               cuda::Capability capability) {
    if (!built.version_compatible && (library.lean || library.version != built.version))
        throw EngineError("the engine of " + name + " needs " + built.name + " " + built.version +
                          ", which built it, but " + library.name + " " + library.version +
                          " is installed here; install that, or build the bundle again with this one (for any later one, "
                          "with --version-compatible).");
    const std::string here = capability.text();
    if (built.compute_capability && *built.compute_capability != here)
        refuse(name, "compute capability " + *built.compute_capability + " alone", here);
    if (built.compute_capabilities) {
        const std::vector<std::string>& all = *built.compute_capabilities;
        if (std::find(all.begin(), all.end(), here) == all.end())
            refuse(name, "compute capabilities " + joined(all), here);
    }
    if (built.least_compute_capability && is_below(here, *built.least_compute_capability))
        refuse(name, "compute capability " + *built.least_compute_capability + " and later", here);
}

}  // namespace himar::core
