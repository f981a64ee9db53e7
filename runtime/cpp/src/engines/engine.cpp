#include "engines/engine.h"

#include <algorithm>

#include "error.h"

namespace himar::core {

const char* name_of(Dtype dtype) {
    return dtype == Dtype::kFloat32 ? "float32" : dtype == Dtype::kFloat16 ? "float16" : "int64";
}

Dtype dtype_named(const std::string& name) {
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kFloat16, Dtype::kInt64})
        if (name == name_of(dtype)) return dtype;
    throw EngineError(name + " is no type of tensors; known are float32, float16, int64.");
}

void check_count(const ComponentSpec& spec, Places places) {
    if (places.size() != spec.inputs.size() + spec.outputs.size())
        throw EngineError(spec.name + " has " + std::to_string(spec.inputs.size()) + " inputs and " +
                          std::to_string(spec.outputs.size()) + " outputs, where the loop has " +
                          std::to_string(places.size()) + " tensors for them; build the bundle again.");
}

bool is_input(const ComponentSpec& spec, const Place& place) {
    for (const auto* tensors : {&spec.inputs, &spec.outputs}) {
        const auto found = std::find_if(tensors->begin(), tensors->end(),
                                        [&](const TensorSpec& tensor) { return tensor.name == place.name; });
        if (found == tensors->end()) continue;
        if (found->dtype != name_of(place.dtype))
            throw EngineError(spec.name + " takes " + place.name + " as " + found->dtype + ", where the loop has " +
                              name_of(place.dtype) + "; build the bundle again.");
        return tensors == &spec.inputs;
    }
    throw EngineError(spec.name + " has no tensor " + place.name + "; build the bundle again.");
}

}  // namespace himar::core
