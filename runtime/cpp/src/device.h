// Where engines run.
#pragma once

#include <string>

namespace himar::core {

struct Device {
    bool is_gpu = false;
    int index = 0;  // of the GPU

    std::string name() const { return is_gpu ? "cuda:" + std::to_string(index) : "cpu"; }

    // Read "cpu", "cuda" or "cuda:1"; EngineError for anything else.
    static Device parse(const std::string& text);
};

}  // namespace himar::core
