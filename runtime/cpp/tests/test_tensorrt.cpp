// TensorRT's library is opened at run time: the right one gives a runtime or its own reason, others are refused.
#include <doctest/doctest.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "bundles.h"
#include "engines/tensorrt/contexts.h"
#include "engines/tensorrt/engine.h"
#include "engines/tensorrt/library.h"
#include "error.h"
#include "queue/cuda/driver.h"

using namespace himar::core;
using himar::core::tensorrt::Library;

namespace {

constexpr const char* kLean = "HIMAR_TEST_TENSORRT_LEAN";
constexpr const char* kRtx = "HIMAR_TEST_TENSORRT_RTX";

// A library that the environment names, or none: then the test says so.
std::string library(const char* variable) {
    const char* const path = std::getenv(variable);
    if (path != nullptr && *path != '\0') return path;
    MESSAGE("skipped: ", std::string(variable), " names no library; HIMAR_PYTHON had no such package when this was configured");
    return "";
}

std::string major_of(const std::string& version) { return version.substr(0, version.find('.')); }

const std::string kMajor = std::to_string(NV_TENSORRT_MAJOR);

}  // namespace

TEST_SUITE_BEGIN("tensorrt");

TEST_CASE("the build says which TensorRT it was compiled for") {
    CHECK(has_tensorrt());
    CHECK(major_of(tensorrt_headers_version()) == kMajor);
    holds(himar_build_info(), ", tensorrt " + tensorrt_headers_version());
}

TEST_CASE("a library that is not there, or is none, is a sentence") {
    const std::string absent = sentence_of<EngineError>([] { Library("/nowhere/libnvinfer.so"); });
    holds(absent, "TensorRT does not load here: /nowhere/libnvinfer.so: cannot open shared object file");
    holds(absent, "set HIMAR_TENSORRT_LIBRARY to the library's path");
    CHECK(sentence_of<EngineError>([] { Library("libm.so.6"); }) ==
          "libm.so.6 is not a TensorRT runtime of version 10 or later; set HIMAR_TENSORRT_LIBRARY to libnvinfer or "
          "libnvinfer_lean.");
}

TEST_CASE("the lean runtime gives its version, and a runtime or its own reason why not") {
    const std::string path = library(kLean);
    if (path.empty()) return;
    const std::string version = path.substr(path.rfind('.') + 1);  // libnvinfer_lean.so.11
    if (version != kMajor) {
        holds(sentence_of<EngineError>([&] { Library lean(path); }),
              "but this build of himar's C++ runtime was compiled for TensorRT " + kMajor);
        return;
    }
    const Library lean(path);
    CHECK(lean.version().name == "tensorrt_lean");
    CHECK(lean.version().lean);
    CHECK(major_of(lean.version().version) == kMajor);
    try {
        const auto runtime = lean.make_runtime();
        REQUIRE(runtime != nullptr);
        // Through the headers' own view of the object.
        runtime->setEngineHostCodeAllowed(true);
        CHECK(runtime->getEngineHostCodeAllowed());
        const tensorrt::CollectedErrors errors;
        CHECK(runtime->deserializeCudaEngine("no engine", 9) == nullptr);
        CHECK(errors.first() != "TensorRT reported no reason");
    } catch (const EngineError& error) {
        CHECK_THROWS_AS(cuda::driver(), EngineError);  // only without a driver
        holds(error.what(), "tensorrt_lean " + lean.version().version + " provides no runtime: ");
        CHECK(std::string(error.what()).find("reported no reason") == std::string::npos);
    }
}

TEST_CASE("an engine whose loading ends before it has a lane is let go of") {
    const auto unfinished = std::make_shared<tensorrt::Loaded>();
    CHECK(unfinished->engine == nullptr);
}

TEST_CASE("a library of another major version is refused before anything of it is used") {
    const std::string path = library(kRtx);  // TensorRT-RTX counts its versions from 1
    if (path.empty()) return;
    const std::string said = sentence_of<EngineError>([&] { Library rtx(path); });
    holds(said, path + " is version 1.");
    holds(said, "was compiled for TensorRT " + kMajor + "; give it that library, or configure it with the other's headers.");
}

TEST_CASE("where TensorRT is not installed, an engine says what it needs") {
    if (std::getenv("HIMAR_TENSORRT_LIBRARY") != nullptr) return;
    try {
        const Library& installed = Library::installed();
        CHECK(major_of(installed.version().version) == kMajor);
    } catch (const EngineError& error) {
        holds(error.what(), "these engines run on TensorRT " + kMajor + ", which is not found here (libnvinfer.so." + kMajor);
        holds(error.what(), "libnvinfer_lean.so." + kMajor);
    }
}

TEST_SUITE_END();
