// HimarReverseStep, a TensorRT plugin (IPluginV3): a head's prediction in, the next diffusion state out.
//
// For those who embed one engine of head and update. Inputs and attributes are in README.md of this folder.
#pragma once

#include <NvInfer.h>

#include <array>
#include <cstdint>

#include "reverse_step_launch.h"

namespace himar {

inline constexpr char kPluginName[] = "HimarReverseStep";
inline constexpr char kPluginVersion[] = "1";
inline constexpr char kPluginNamespace[] = "himar";

enum class Head : std::int32_t { mlp, dit };

// What a plugin is made with: which head's update, and 1 half of the prediction or 2 under guidance.
struct ReverseStepAttributes {
    Head head = Head::mlp;
    std::int32_t halves = 2;
};

class ReverseStepPlugin final : public nvinfer1::IPluginV3,
                                public nvinfer1::IPluginV3OneCore,
                                public nvinfer1::IPluginV3OneBuild,
                                public nvinfer1::IPluginV3OneRuntime {
public:
    explicit ReverseStepPlugin(const ReverseStepAttributes& attributes);

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3* clone() noexcept override;

    const char* getPluginName() const noexcept override { return kPluginName; }
    const char* getPluginVersion() const noexcept override { return kPluginVersion; }
    const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

    std::int32_t getNbOutputs() const noexcept override { return 1; }
    std::int32_t getOutputDataTypes(nvinfer1::DataType* outputs, std::int32_t output_count,
                                    const nvinfer1::DataType* inputs,
                                    std::int32_t input_count) const noexcept override;
    std::int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t input_count,
                                 const nvinfer1::DimsExprs* shape_inputs, std::int32_t shape_input_count,
                                 nvinfer1::DimsExprs* outputs, std::int32_t output_count,
                                 nvinfer1::IExprBuilder& builder) noexcept override;
    bool supportsFormatCombination(std::int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                   std::int32_t input_count, std::int32_t output_count) noexcept override;
    std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t input_count,
                                 const nvinfer1::DynamicPluginTensorDesc* outputs,
                                 std::int32_t output_count) noexcept override;

    std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, std::int32_t input_count,
                               const nvinfer1::PluginTensorDesc* outputs, std::int32_t output_count) noexcept override;
    std::int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descriptions,
                         const nvinfer1::PluginTensorDesc* output_descriptions, const void* const* inputs,
                         void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

private:
    ReverseStepAttributes attributes_;
    // What getFieldsToSerialize points to: rebuilt at every call, since a copy of the plugin has its own address.
    std::array<nvinfer1::PluginField, 2> fields_;
    nvinfer1::PluginFieldCollection collection_{};
};

class ReverseStepCreator final : public nvinfer1::IPluginCreatorV3One {
public:
    ReverseStepCreator();
    nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                      nvinfer1::TensorRTPhase phase) noexcept override;
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
    const char* getPluginName() const noexcept override { return kPluginName; }
    const char* getPluginVersion() const noexcept override { return kPluginVersion; }
    const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

private:
    std::array<nvinfer1::PluginField, 2> fields_;
    nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace himar
