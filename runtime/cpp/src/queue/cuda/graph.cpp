#include "queue/cuda/graph.h"

#include <utility>

namespace himar::core::cuda {
namespace {

class Recorded final : public Graph {
public:
    Recorded(CUgraphExec_st* executable, std::shared_ptr<CUstream_st> stream)
        : executable_(executable), stream_(std::move(stream)) {}
    ~Recorded() override { driver().cuGraphExecDestroy(executable_); }
    Recorded(const Recorded&) = delete;
    Recorded& operator=(const Recorded&) = delete;

    void replay() override { HIMAR_CUDA(cuGraphLaunch, executable_, stream_.get()); }

private:
    CUgraphExec_st* executable_;
    std::shared_ptr<CUstream_st> stream_;
};

}  // namespace

Event::Event(CUstream_st* stream) {
    HIMAR_CUDA(cuEventCreate, &event_, kEventDisableTiming);
    try {
        HIMAR_CUDA(cuEventRecord, event_, stream);
    } catch (...) {
        driver().cuEventDestroy(event_);
        throw;
    }
}

Event::~Event() { driver().cuEventDestroy(event_); }

void Event::wait() { HIMAR_CUDA(cuEventSynchronize, event_); }

std::unique_ptr<Graph> record_graph(const std::shared_ptr<CUstream_st>& stream, const std::function<void()>& enqueue) {
    CUgraph_st* graph = nullptr;
    // Thread-local: other lanes may allocate while this one records.
    HIMAR_CUDA(cuStreamBeginCapture, stream.get(), kCaptureThreadLocal);
    try {
        enqueue();
    } catch (...) {
        // An error of this call follows from the first.
        if (driver().cuStreamEndCapture(stream.get(), &graph) == 0 && graph != nullptr) driver().cuGraphDestroy(graph);
        throw;
    }
    HIMAR_CUDA(cuStreamEndCapture, stream.get(), &graph);
    const std::unique_ptr<CUgraph_st, int (*)(CUgraph_st*)> captured(graph, driver().cuGraphDestroy);
    CUgraphExec_st* executable = nullptr;
    HIMAR_CUDA(cuGraphInstantiate, &executable, graph, 0ull);
    return std::make_unique<Recorded>(executable, stream);
}

}  // namespace himar::core::cuda
