// Engines that ONNX Runtime runs, on the CPU or on a GPU.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "engines/engine.h"
#include "queue/cuda/queue.h"

namespace himar::core {

struct GraphContent;

// Load a component's ONNX model.
//
// threads: CPU threads that one run uses, 0 for default_threads(); small networks split their rows among them, large ones
// each operator. queue: the GPU's, on whose stream it queues its runs, which all lanes of its clones must share; null runs
// it on the CPU. content: what the graph of a bundle is made of, which is compared before it is read; on the CPU it is kept
// with packed weights where that is asked for.
// EngineError: bfloat16, which ONNX Runtime cannot run on the CPU, an ONNX Runtime without CUDA, a model that does not load.
std::unique_ptr<Engine> load_ort_engine(const std::filesystem::path& path, const ComponentSpec& spec, int threads,
                                        const GraphContent& content,
                                        const std::shared_ptr<cuda::CudaQueue>& queue = nullptr);

// The version of the ONNX Runtime that is linked, for example "1.31.0", and whether it can use a GPU.
std::string ort_version();
bool ort_has_cuda();

}  // namespace himar::core
