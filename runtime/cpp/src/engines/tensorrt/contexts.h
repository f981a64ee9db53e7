// Execution contexts of one engine on one queue: one for every set of tensors at their places.
//
// A context from which a graph was recorded must not be changed afterwards, so a context keeps its shapes and addresses
// for good. Contexts own no activation memory: all engines of a queue run one after another and share the queue's.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engines/engine.h"
#include "engines/tensorrt/library.h"
#include "queue/cuda/queue.h"

namespace himar::core::tensorrt {

// An engine that all lanes of a pipeline share, and a lock for making contexts from it. Freed on a thread of any kind, with the GPU
// made current.
struct Loaded {
    ~Loaded();

    std::shared_ptr<Queue> gpu;  // a queue without memory of its own
    ComponentSpec spec;
    std::unique_ptr<nvinfer1::IRuntime> runtime;  // outlives the engine
    std::unique_ptr<nvinfer1::ICudaEngine> engine;
    std::mutex making;
};

class Contexts {
public:
    static constexpr std::size_t kMost = 512;

    Contexts(std::shared_ptr<Loaded> loaded, std::shared_ptr<cuda::CudaQueue> queue);
    ~Contexts();
    Contexts(const Contexts&) = delete;
    Contexts& operator=(const Contexts&) = delete;

    // Queue a run on the queue's stream; EngineError when TensorRT refuses, with its reason.
    void enqueue(Places places);

    // Give all contexts up, once nothing queued uses them; the queue's graphs then are of the past.
    void forget();

    const std::shared_ptr<Loaded>& loaded() const { return loaded_; }

private:
    struct Context {
        std::shared_ptr<void> memory;  // the queue's, as it was when the context was made
        std::unique_ptr<nvinfer1::IExecutionContext> context;
    };

    Context make(Places places, const CollectedErrors& errors);
    void check_output(const nvinfer1::IExecutionContext& context, const Place& place) const;
    void set_shape(nvinfer1::IExecutionContext& context, const Place& place, const CollectedErrors& errors) const;

    std::shared_ptr<Loaded> loaded_;
    std::shared_ptr<cuda::CudaQueue> queue_;
    std::int64_t bytes_;  // of activation memory
    std::map<std::vector<std::int64_t>, Context> contexts_;
    std::vector<std::int64_t> key_;  // kept, so that a run allocates nothing
};

}  // namespace himar::core::tensorrt
