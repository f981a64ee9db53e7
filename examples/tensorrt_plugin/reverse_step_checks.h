// What the plugin refuses, with a sentence in TensorRT's log.
#pragma once

#include <optional>

#include "reverse_step_plugin.h"

namespace himar {

// Inputs, in order.
enum Input : std::int32_t { kX, kPrediction, kNoise, kParameters, kInputs };

// Logs the sentence as an error and returns 1, TensorRT's "failed".
std::int32_t refused(const char* sentence) noexcept;

// The attributes of a network or of a serialized engine; none when one is missing or unknown.
std::optional<ReverseStepAttributes> read_attributes(const nvinfer1::PluginFieldCollection* fields) noexcept;

// True when the four inputs' shapes fit each other; a dimension of -1 is not known yet and fits.
bool check_shapes(const ReverseStepAttributes& attributes, const nvinfer1::Dims& x, const nvinfer1::Dims& prediction,
                  const nvinfer1::Dims& noise, const nvinfer1::Dims& parameters) noexcept;

// Product of all dimensions but the last.
std::int64_t rows_of(const nvinfer1::Dims& dims) noexcept;

}  // namespace himar
