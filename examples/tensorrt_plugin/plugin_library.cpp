// What TensorRT looks for in a plugin library (IPluginRegistry::loadLibrary, trtexec --dynamicPlugins).
//
// Nothing registers itself when the library is loaded, so the library needs no TensorRT library to link with.
#include "reverse_step_checks.h"

namespace {

// Set by TensorRT when it loads the library; without it the plugin refuses silently.
nvinfer1::ILoggerFinder* logger_finder = nullptr;

}  // namespace

std::int32_t himar::refused(const char* sentence) noexcept {
    if (logger_finder != nullptr)
        if (nvinfer1::ILogger* const logger = logger_finder->findLogger(); logger != nullptr)
            logger->log(nvinfer1::ILogger::Severity::kERROR, sentence);
    return 1;
}

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
    logger_finder = finder;
}

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(
    std::int32_t& count) {
    static himar::ReverseStepCreator creator;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
    count = 1;
    return creators;
}
