#include "reverse_step_plugin.h"

#include <new>
#include <optional>

#include "reverse_step_checks.h"

namespace himar {

namespace {

constexpr const char* head_name(Head head) { return head == Head::mlp ? "mlp" : "dit"; }

}  // namespace

ReverseStepPlugin::ReverseStepPlugin(const ReverseStepAttributes& attributes) : attributes_(attributes) {}

nvinfer1::IPluginCapability* ReverseStepPlugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
    switch (type) {
        case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
        case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
        case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

nvinfer1::IPluginV3* ReverseStepPlugin::clone() noexcept { return new (std::nothrow) ReverseStepPlugin(attributes_); }

// Holds nothing of its context: every launch finds all it needs in its arguments.
nvinfer1::IPluginV3* ReverseStepPlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept { return clone(); }

std::int32_t ReverseStepPlugin::getOutputDataTypes(nvinfer1::DataType* outputs, std::int32_t output_count,
                                                   const nvinfer1::DataType*,
                                                   std::int32_t input_count) const noexcept {
    if (input_count != kInputs || output_count != 1) return refused("HimarReverseStep has 4 inputs and 1 output.");
    outputs[0] = nvinfer1::DataType::kFLOAT;
    return 0;
}

std::int32_t ReverseStepPlugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t input_count,
                                                const nvinfer1::DimsExprs*, std::int32_t, nvinfer1::DimsExprs* outputs,
                                                std::int32_t output_count, nvinfer1::IExprBuilder&) noexcept {
    if (input_count != kInputs || output_count != 1) return refused("HimarReverseStep has 4 inputs and 1 output.");
    outputs[0] = inputs[kX];
    return 0;
}

bool ReverseStepPlugin::supportsFormatCombination(std::int32_t position,
                                                  const nvinfer1::DynamicPluginTensorDesc* tensors, std::int32_t,
                                                  std::int32_t) noexcept {
    const nvinfer1::PluginTensorDesc& tensor = tensors[position].desc;
    return tensor.type == nvinfer1::DataType::kFLOAT && tensor.format == nvinfer1::TensorFormat::kLINEAR;
}

std::int32_t ReverseStepPlugin::configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs,
                                                std::int32_t input_count, const nvinfer1::DynamicPluginTensorDesc*,
                                                std::int32_t) noexcept {
    if (input_count != kInputs) return refused("HimarReverseStep has 4 inputs and 1 output.");
    // The smallest and the largest shapes of the profile, where it is known.
    return check_shapes(attributes_, inputs[kX].min, inputs[kPrediction].min, inputs[kNoise].min,
                        inputs[kParameters].min) &&
                   check_shapes(attributes_, inputs[kX].max, inputs[kPrediction].max, inputs[kNoise].max,
                                inputs[kParameters].max)
               ? 0
               : 1;
}

std::int32_t ReverseStepPlugin::onShapeChange(const nvinfer1::PluginTensorDesc* inputs, std::int32_t input_count,
                                              const nvinfer1::PluginTensorDesc*, std::int32_t) noexcept {
    if (input_count != kInputs) return refused("HimarReverseStep has 4 inputs and 1 output.");
    return check_shapes(attributes_, inputs[kX].dims, inputs[kPrediction].dims, inputs[kNoise].dims,
                        inputs[kParameters].dims)
               ? 0
               : 1;
}

std::int32_t ReverseStepPlugin::enqueue(const nvinfer1::PluginTensorDesc* input_descriptions,
                                        const nvinfer1::PluginTensorDesc*, const void* const* inputs,
                                        void* const* outputs, void*, cudaStream_t stream) noexcept {
    const nvinfer1::Dims& x = input_descriptions[kX].dims;
    const ReverseStepSizes sizes{static_cast<std::uint32_t>(rows_of(x)), static_cast<std::uint32_t>(attributes_.halves),
                                 static_cast<std::uint32_t>(x.d[x.nbDims - 1]), attributes_.head == Head::mlp};
    const auto input = [&](int index) { return static_cast<const float*>(inputs[index]); };
    const cudaError_t status = launch_reverse_step(static_cast<float*>(outputs[0]), input(kX), input(kPrediction),
                                                   input(kNoise), input(kParameters), sizes, stream);
    return status == cudaSuccess ? 0 : refused(cudaGetErrorString(status));
}

const nvinfer1::PluginFieldCollection* ReverseStepPlugin::getFieldsToSerialize() noexcept {
    fields_[0] = {"head", head_name(attributes_.head), nvinfer1::PluginFieldType::kCHAR, 3};
    fields_[1] = {"halves", &attributes_.halves, nvinfer1::PluginFieldType::kINT32, 1};
    collection_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
    return &collection_;
}

ReverseStepCreator::ReverseStepCreator()
    : fields_{nvinfer1::PluginField("head", nullptr, nvinfer1::PluginFieldType::kCHAR, 3),
              nvinfer1::PluginField("halves", nullptr, nvinfer1::PluginFieldType::kINT32, 1)},
      collection_{static_cast<std::int32_t>(fields_.size()), fields_.data()} {}

nvinfer1::IPluginV3* ReverseStepCreator::createPlugin(const char*, const nvinfer1::PluginFieldCollection* fields,
                                                      nvinfer1::TensorRTPhase) noexcept {
    const std::optional<ReverseStepAttributes> attributes = read_attributes(fields);
    return attributes ? new (std::nothrow) ReverseStepPlugin(*attributes) : nullptr;
}

}  // namespace himar
