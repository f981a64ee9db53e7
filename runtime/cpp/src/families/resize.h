// Resizes pixels bicubically, without aliasing, in whole numbers (himar_kernels/arithmetic/resize.py, which says how).
#pragma once

#include <cstdint>
#include <vector>

namespace himar::core {

// What the weights of a pixel add up to.
constexpr std::int64_t kResizeUnit = std::int64_t{1} << 20;

// Weights (wanted, given) that make a row of `wanted` pixels of one of `given`; both at most 2^15.
std::vector<std::int64_t> cubic_weights(std::int64_t given, std::int64_t wanted);

// Write what an encoder takes of RGB pixels (given, given, 3) in another size: values (3, side, side) in [-1, 1].
void write_resized(const std::uint8_t* pixels, std::int64_t given, std::int64_t side, float* values);

}  // namespace himar::core
