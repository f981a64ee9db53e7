// The TensorRT library of this machine, opened when engines need it: libhimar links none.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engines/tensorrt/fit.h"

namespace himar::core::tensorrt {

// TensorRT's errors, for the sentences of ours. It keeps the first logger that it is given and calls it for as long as it
// is loaded, from any of its threads: there is one for a process.
class Messages final : public nvinfer1::ILogger {
public:
    void log(Severity severity, nvinfer1::AsciiChar const* text) noexcept override;

    static Messages& instance();

private:
    friend class CollectedErrors;
    std::mutex lock_;
    std::vector<std::vector<std::string>*> collecting_;
};

// Collects the errors that TensorRT tells of while the object lives.
class CollectedErrors {
public:
    CollectedErrors();
    ~CollectedErrors();
    CollectedErrors(const CollectedErrors&) = delete;
    CollectedErrors& operator=(const CollectedErrors&) = delete;

    bool any() const;

    // The first error's first line, or a phrase that says there was none.
    std::string first() const;

private:
    std::vector<std::string> lines_;
};

class Library {
public:
    // The library at $HIMAR_TENSORRT_LIBRARY, else libnvinfer or libnvinfer_lean of the headers' major version, opened
    // once. EngineError when there is none, or it is of another major version.
    static const Library& installed();

    // Open a library by its path or name; EngineError when it is not TensorRT of the headers' major version.
    explicit Library(const std::string& path);

    const TensorRTVersion& version() const { return version_; }

    // EngineError, with TensorRT's reason, when it refuses: there is no driver, for example.
    std::unique_ptr<nvinfer1::IRuntime> make_runtime() const;

private:
    void* (*create_)(void* logger, int version) = nullptr;
    TensorRTVersion version_;
};

}  // namespace himar::core::tensorrt
