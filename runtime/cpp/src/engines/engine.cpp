#include "engines/engine.h"

#include <algorithm>

#include "error.h"

namespace himar::core {

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
        const char* const dtype = place.dtype == Dtype::kFloat32 ? "float32" : "int64";
        if (found->dtype != dtype)
            throw EngineError(spec.name + " takes " + place.name + " as " + found->dtype + ", where the loop has " + dtype +
                              "; build the bundle again.");
        return tensors == &spec.inputs;
    }
    throw EngineError(spec.name + " has no tensor " + place.name + "; build the bundle again.");
}

}  // namespace himar::core
