#include "engines/tensorrt/library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "error.h"
#include "text.h"

namespace himar::core::tensorrt {
namespace {

constexpr const char* kPathVariable = "HIMAR_TENSORRT_LIBRARY";

using Number = int (*)();

template <class Function>
Function find(void* handle, const char* name) {
    return reinterpret_cast<Function>(dlsym(handle, name));
}

std::string version_of(void* handle) {
    std::string text;
    for (const char* name : {"getInferLibMajorVersion", "getInferLibMinorVersion", "getInferLibPatchVersion",
                             "getInferLibBuildVersion"}) {
        const auto number = find<Number>(handle, name);
        if (number == nullptr) return "";
        text += (text.empty() ? "" : ".") + std::to_string(number());
    }
    return text;
}

// The first library that opens. Names are those of releases since TensorRT 10.
Library open_installed() {
    if (const char* const path = std::getenv(kPathVariable); path != nullptr && *path != '\0') return Library(path);
    const std::string major = std::to_string(NV_TENSORRT_MAJOR);
    std::vector<std::string> reasons;
    for (const char* name : {"libnvinfer.so.", "libnvinfer_lean.so."}) {
        const std::string file = name + major;
        // Which names open is asked here; what is wrong with one that does is the constructor's to say.
        if (dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL) != nullptr) return Library(file);
        const char* const why = dlerror();
        reasons.emplace_back(why == nullptr ? file : why);
    }
    throw EngineError("these engines run on TensorRT " + major + ", which is not found here (" + joined(reasons, "; ") +
                      "); install it, or its lean runtime for engines built with --version-compatible, or set " +
                      kPathVariable + " to the library's path.");
}

}  // namespace

void Messages::log(Severity severity, nvinfer1::AsciiChar const* text) noexcept {
    if (severity != Severity::kINTERNAL_ERROR && severity != Severity::kERROR) return;
    try {
        const std::lock_guard<std::mutex> lock(lock_);
        for (std::vector<std::string>* const lines : collecting_) lines->push_back(text);
    } catch (...) {  // without memory the error goes without its reason
    }
}

Messages& Messages::instance() {
    static Messages* const messages = new Messages;  // TensorRT calls it until the very end of the process
    return *messages;
}

CollectedErrors::CollectedErrors() {
    Messages& messages = Messages::instance();
    const std::lock_guard<std::mutex> lock(messages.lock_);
    messages.collecting_.push_back(&lines_);
}

CollectedErrors::~CollectedErrors() {
    Messages& messages = Messages::instance();
    const std::lock_guard<std::mutex> lock(messages.lock_);
    auto& all = messages.collecting_;
    all.erase(std::remove(all.begin(), all.end(), &lines_), all.end());
}

bool CollectedErrors::any() const {
    const std::lock_guard<std::mutex> lock(Messages::instance().lock_);
    return !lines_.empty();
}

std::string CollectedErrors::first() const {
    const std::lock_guard<std::mutex> lock(Messages::instance().lock_);
    for (const std::string& line : lines_)
        if (line.find_first_not_of(" \n") != std::string::npos) return line.substr(0, line.find('\n'));
    return "TensorRT reported no reason";
}

Library::Library(const std::string& path) {
    // It stays open: engines and the logger outlive whoever opened it.
    void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr)
        throw EngineError("TensorRT does not load here: " + std::string(dlerror()) + "; set " + kPathVariable +
                          " to the library's path, or to nothing.");
    create_ = find<decltype(create_)>(handle, "createInferRuntime_INTERNAL");
    const bool builds = dlsym(handle, "createInferBuilder_INTERNAL") != nullptr;
    version_ = {builds ? "tensorrt" : "tensorrt_lean", version_of(handle), !builds};
    if (create_ == nullptr || version_.version.empty())
        throw EngineError(path + " is not a TensorRT runtime of version 10 or later; set " + kPathVariable +
                          " to libnvinfer or libnvinfer_lean.");
    // What its objects look like in memory is the same within a major version only.
    if (version_.version.substr(0, version_.version.find('.')) != std::to_string(NV_TENSORRT_MAJOR))
        throw EngineError(path + " is version " + version_.version + ", but this build of himar's C++ runtime was compiled "
                          "for TensorRT " + std::to_string(NV_TENSORRT_MAJOR) + "; give it that library, or configure it "
                          "with the other's headers.");
}

const Library& Library::installed() {
    static const Library opened = open_installed();
    return opened;
}

std::unique_ptr<nvinfer1::IRuntime> Library::make_runtime() const {
    const CollectedErrors errors;
    void* const made = create_(&Messages::instance(), static_cast<int>(NV_TENSORRT_VERSION));
    // Without a driver TensorRT 11 tells of an error and gives an address all the same, at which there is nothing.
    if (made == nullptr || errors.any())
        throw EngineError(version_.name + " " + version_.version + " provides no runtime: " + errors.first() +
                          "; check that NVIDIA's driver is installed and fits it.");
    return std::unique_ptr<nvinfer1::IRuntime>(static_cast<nvinfer1::IRuntime*>(made));
}

}  // namespace himar::core::tensorrt
