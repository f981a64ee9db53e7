#include "engines/tensorrt/contexts.h"

#include <algorithm>
#include <utility>

#include "error.h"
#include "text.h"

namespace himar::core::tensorrt {
namespace {

std::string shown(const std::int64_t* sizes, std::size_t rank) {
    std::vector<std::string> shown;
    for (std::size_t i = 0; i < rank; ++i) shown.push_back(std::to_string(sizes[i]));
    return "(" + joined(shown) + ")";
}

std::string profile_of(const ComponentSpec& spec) {
    std::vector<std::string> ranges;
    for (const auto& [axis, range] : spec.profile)
        ranges.push_back(axis + " " + std::to_string(range[0]) + " to " + std::to_string(range[2]));
    return joined(ranges);
}

}  // namespace

Loaded::~Loaded() {
    if (gpu == nullptr) return;  // it never got as far as an engine
    try {
        gpu->make_current();
    } catch (const EngineError&) {  // there is nobody to tell
    }
}

Contexts::Contexts(std::shared_ptr<Loaded> loaded, std::shared_ptr<cuda::CudaQueue> queue)
    : loaded_(std::move(loaded)), queue_(std::move(queue)), bytes_(loaded_->engine->getDeviceMemorySizeV2()) {
    queue_->reserve(static_cast<std::size_t>(bytes_));
}

Contexts::~Contexts() {
    try {
        queue_->make_current();
        queue_->synchronize();
    } catch (const EngineError&) {
    }
}

void Contexts::enqueue(Places places) {
    write_key(places, key_);
    const CollectedErrors errors;
    auto found = contexts_.find(key_);
    if (found == contexts_.end()) {
        if (contexts_.size() >= kMost) forget();
        found = contexts_.emplace(key_, make(places, errors)).first;
    }
    // TensorRT's streams are the runtime API's, which are the driver's.
    if (!found->second.context->enqueueV3(queue_->stream()))
        throw EngineError(loaded_->spec.name + " failed on " + queue_->name() + ": " + errors.first());
}

void Contexts::forget() {
    if (contexts_.empty()) return;
    queue_->synchronize();
    queue_->forget_graphs();
    contexts_.clear();
}

Contexts::Context Contexts::make(Places places, const CollectedErrors& errors) {
    const ComponentSpec& spec = loaded_->spec;
    check_count(spec, places);
    Context made;
    {
        const std::lock_guard<std::mutex> lock(loaded_->making);
        made.context.reset(
            loaded_->engine->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
    }
    if (made.context == nullptr) throw EngineError(spec.name + " cannot get an execution context: " + errors.first());
    for (const Place& place : places) {
        if (is_input(spec, place)) set_shape(*made.context, place, errors);
        if (!made.context->setTensorAddress(place.name, place.address))
            throw EngineError(spec.name + " does not take " + place.name + " at its address: " + errors.first());
    }
    for (const Place& place : places)
        if (!is_input(spec, place)) check_output(*made.context, place);
    if (bytes_ > 0) {
        made.memory = queue_->scratch();
        made.context->setDeviceMemoryV2(made.memory.get(), bytes_);
    }
    return made;
}

// Once all inputs have their shapes: TensorRT would write a larger output beyond its place.
void Contexts::check_output(const nvinfer1::IExecutionContext& context, const Place& place) const {
    const nvinfer1::Dims found = context.getTensorShape(place.name);
    const auto rank = static_cast<std::size_t>(std::max(found.nbDims, 0));
    const auto fits = [](std::int64_t size, std::int64_t wanted) { return size == wanted || size == -1; };  // -1: still open
    if (!std::equal(found.d, found.d + rank, place.shape.sizes, place.shape.sizes + place.shape.rank, fits))
        throw EngineError(loaded_->spec.name + " gives " + place.name + " with shape " + shown(found.d, rank) +
                          ", where the loop has " + shown(place.shape.sizes, place.shape.rank) +
                          "; build the bundle again.");
}

void Contexts::set_shape(nvinfer1::IExecutionContext& context, const Place& place, const CollectedErrors& errors) const {
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<std::int32_t>(place.shape.rank);
    std::copy_n(place.shape.sizes, place.shape.rank, dims.d);
    if (!context.setInputShape(place.name, dims))
        throw EngineError(loaded_->spec.name + " does not take " + place.name + " with shape " +
                          shown(place.shape.sizes, place.shape.rank) + " (" + errors.first() +
                          "); it was built for " + profile_of(loaded_->spec) +
                          ": use fewer images at once.");
}

}  // namespace himar::core::tensorrt
