// What a generation gives back.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "request.h"

namespace himar::core {

struct Result {
    std::vector<std::uint8_t> images;  // (B, H, W, 3), RGB; empty when the bundle has no VAE decoder
    std::vector<float> latents;        // (B, C, h, w), VAE scale removed
    std::vector<float> low_latents;    // (B, C, s, s), VAE scale removed
    std::vector<std::int64_t> labels;  // (B) of the finished images
    std::vector<std::string> recipes;  // (B), JSON
    ModelInfo model;
    bool has_images = false;
    bool cancelled = false;
    double seconds = 0, engine_seconds = 0;
};

// How image `place` of a request was made, as the JSON that himar_runtime.Recipe writes.
std::string recipe(const Request& request, std::size_t place, const std::string& bundle_id);

}  // namespace himar::core
