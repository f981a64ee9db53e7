#include "reverse_step_checks.h"

#include <cstring>
#include <string_view>

namespace himar {

namespace {

constexpr std::int64_t kMostItems = 0x7FFFFFFF;  // the kernel divides item numbers in 32 bits
constexpr std::int64_t kStepParameterCount = 10;

bool fits(std::int64_t dimension, std::int64_t expected) {
    return dimension == expected || dimension < 0 || expected < 0;
}

std::optional<std::int64_t> integer_of(const nvinfer1::PluginField& field) {
    if (field.data == nullptr || field.length != 1) return std::nullopt;
    if (field.type == nvinfer1::PluginFieldType::kINT32) return *static_cast<const std::int32_t*>(field.data);
    if (field.type == nvinfer1::PluginFieldType::kINT64) return *static_cast<const std::int64_t*>(field.data);
    return std::nullopt;
}

std::optional<Head> head_of(const nvinfer1::PluginField& field) {
    const bool is_text = field.type == nvinfer1::PluginFieldType::kCHAR && field.length >= 0;
    if (field.data == nullptr || !is_text) return std::nullopt;
    std::string_view name(static_cast<const char*>(field.data), static_cast<std::size_t>(field.length));
    while (!name.empty() && name.back() == '\0') name.remove_suffix(1);  // some callers count the end of the string
    if (name == "mlp") return Head::mlp;
    if (name == "dit") return Head::dit;
    return std::nullopt;
}

}  // namespace

std::optional<ReverseStepAttributes> read_attributes(const nvinfer1::PluginFieldCollection* fields) noexcept {
    std::optional<Head> head;
    std::optional<std::int64_t> halves;
    for (std::int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i) {
        const nvinfer1::PluginField& field = fields->fields[i];
        if (std::strcmp(field.name, "head") == 0) head = head_of(field);
        if (std::strcmp(field.name, "halves") == 0) halves = integer_of(field);
    }
    if (!head) {
        refused("HimarReverseStep needs the attribute head: the string mlp or dit.");
        return std::nullopt;
    }
    if (!halves || *halves < 1 || *halves > 2) {
        refused("HimarReverseStep needs the attribute halves: the integer 1, or 2 under guidance.");
        return std::nullopt;
    }
    return ReverseStepAttributes{*head, static_cast<std::int32_t>(*halves)};
}

bool check_shapes(const ReverseStepAttributes& attributes, const nvinfer1::Dims& x, const nvinfer1::Dims& prediction,
                  const nvinfer1::Dims& noise, const nvinfer1::Dims& parameters) noexcept {
    if (x.nbDims < 2 || prediction.nbDims != x.nbDims || noise.nbDims != x.nbDims) {
        refused("HimarReverseStep needs x, prediction and noise of the same number of dimensions, 2 or more.");
        return false;
    }
    const std::int32_t last = x.nbDims - 1;
    const std::int64_t channels = x.d[last];
    const std::int64_t outputs = channels < 0 || attributes.head == Head::dit ? channels : 2 * channels;
    bool same = fits(prediction.d[last], outputs) && fits(noise.d[last], channels);
    for (std::int32_t i = 0; i < last; ++i) {
        const std::int64_t rows = i == 0 && x.d[0] >= 0 ? attributes.halves * x.d[0] : x.d[i];
        same = same && fits(prediction.d[i], rows) && fits(noise.d[i], x.d[i]);
    }
    if (!same) {
        refused(
            "HimarReverseStep needs noise of x's shape (M, ..., C), and prediction (halves*M, ..., 2C for mlp, C for "
            "dit).");
        return false;
    }
    if (parameters.nbDims != 1 || !fits(parameters.d[0], kStepParameterCount)) {
        refused("HimarReverseStep needs parameters (10): the chain's eight tables at k, guidance, temperature.");
        return false;
    }
    if (channels > 0 && rows_of(x) > 0 && rows_of(x) > kMostItems / ((channels + 3) / 4)) {
        refused("HimarReverseStep has more than 2^31 groups of four channels; use smaller batches.");
        return false;
    }
    return true;
}

std::int64_t rows_of(const nvinfer1::Dims& dims) noexcept {
    std::int64_t rows = 1;
    for (std::int32_t i = 0; i + 1 < dims.nbDims; ++i) rows *= dims.d[i];
    return rows;
}

}  // namespace himar
