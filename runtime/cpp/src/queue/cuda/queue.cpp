#include "queue/cuda/queue.h"

#include <utility>

#include "error.h"

namespace himar::core::cuda {
namespace {

Address address_of(const void* pointer) { return reinterpret_cast<Address>(pointer); }

void* pointer_to(Address address) { return reinterpret_cast<void*>(address); }

// An event in a stream, destroyed with the object, waited for or not.
class Event final : public Mark {
public:
    explicit Event(CUstream_st* stream) {
        HIMAR_CUDA(cuEventCreate, &event_, kEventDisableTiming);
        try {
            HIMAR_CUDA(cuEventRecord, event_, stream);
        } catch (...) {
            driver().cuEventDestroy(event_);
            throw;
        }
    }
    ~Event() override { driver().cuEventDestroy(event_); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    void wait() override { HIMAR_CUDA(cuEventSynchronize, event_); }

private:
    CUevent_st* event_ = nullptr;
};

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

Capability compute_capability(int index) {
    try {
        int handle = 0;
        Capability found{};
        HIMAR_CUDA(cuInit, 0u);
        HIMAR_CUDA(cuDeviceGet, &handle, index);
        HIMAR_CUDA(cuDeviceGetAttribute, &found.major, kCapabilityMajor, handle);
        HIMAR_CUDA(cuDeviceGetAttribute, &found.minor, kCapabilityMinor, handle);
        return found;
    } catch (const EngineError& error) {
        throw EngineError("cuda:" + std::to_string(index) + " is not a GPU that can be used here: " + error.what() +
                          " `nvidia-smi -L` lists the GPUs; without one, use device 'cpu'.");
    }
}

std::optional<std::int64_t> free_memory(int index) {
    try {
        int handle = 0;
        CUctx_st* context = nullptr;
        HIMAR_CUDA(cuInit, 0u);
        HIMAR_CUDA(cuDeviceGet, &handle, index);
        HIMAR_CUDA(cuDevicePrimaryCtxRetain, &context, handle);
        const std::shared_ptr<void> held(context, [handle](void*) { driver().cuDevicePrimaryCtxRelease(handle); });
        std::size_t free = 0, total = 0;
        HIMAR_CUDA(cuCtxSetCurrent, context);
        HIMAR_CUDA(cuMemGetInfo, &free, &total);
        return static_cast<std::int64_t>(free);
    } catch (const EngineError&) {
        return std::nullopt;
    }
}

CudaQueue::Gpu::Gpu(int number) : index(number), capability(compute_capability(number)) {
    HIMAR_CUDA(cuDeviceGet, &handle, index);
    HIMAR_CUDA(cuDevicePrimaryCtxRetain, &context, handle);
    try {
        make_current();
        program = std::make_unique<Program>(compiled_kernels());
    } catch (...) {
        driver().cuDevicePrimaryCtxRelease(handle);
        throw;
    }
}

CudaQueue::Gpu::~Gpu() {
    driver().cuCtxSetCurrent(context);
    program.reset();
    driver().cuDevicePrimaryCtxRelease(handle);
}

void CudaQueue::Gpu::make_current() const { HIMAR_CUDA(cuCtxSetCurrent, context); }

CudaQueue::CudaQueue(std::shared_ptr<Gpu> gpu, bool shared, std::shared_ptr<CUstream_st> stream)
    : gpu_(std::move(gpu)), shared_(shared), stream_(std::move(stream)) {}

std::shared_ptr<CudaQueue> CudaQueue::open(int index, bool shared) {
    auto gpu = std::make_shared<Gpu>(index);
    auto stream = make_stream(gpu);
    return std::shared_ptr<CudaQueue>(new CudaQueue(std::move(gpu), shared, std::move(stream)));
}

// A stream that waits for no other; whoever holds it holds the GPU's context.
std::shared_ptr<CUstream_st> CudaQueue::make_stream(const std::shared_ptr<Gpu>& gpu) {
    gpu->make_current();
    CUstream_st* stream = nullptr;
    HIMAR_CUDA(cuStreamCreate, &stream, kStreamNonBlocking);
    return {stream, [gpu](CUstream_st* made) {
                driver().cuCtxSetCurrent(gpu->context);
                driver().cuStreamSynchronize(made);
                driver().cuStreamDestroy(made);
            }};
}

std::shared_ptr<Queue> CudaQueue::another() const {
    return std::shared_ptr<CudaQueue>(new CudaQueue(gpu_, shared_, shared_ ? stream_ : make_stream(gpu_)));
}

void CudaQueue::make_current() { gpu_->make_current(); }

std::shared_ptr<void> CudaQueue::allocate(std::size_t bytes) {
    Address address = 0;
    try {
        HIMAR_CUDA(cuMemAlloc, &address, bytes);
    } catch (const EngineError& error) {
        std::size_t free = 0, total = 0;
        driver().cuMemGetInfo(&free, &total);
        throw EngineError(name() + " has no room for a buffer of " + std::to_string(bytes) + " bytes (" +
                          std::to_string(free) + " of " + std::to_string(total) + " are free): " + error.what() +
                          " Build the bundle with a smaller --max-batch, or use fewer lanes.");
    }
    return {pointer_to(address), [gpu = gpu_, stream = stream_](void* block) {
                driver().cuCtxSetCurrent(gpu->context);
                driver().cuStreamSynchronize(stream.get());  // nothing queued may still use it
                driver().cuMemFree(address_of(block));
            }};
}

std::shared_ptr<void> CudaQueue::allocate_staging(std::size_t bytes) {
    void* block = nullptr;
    HIMAR_CUDA(cuMemAllocHost, &block, bytes);
    return {block, [gpu = gpu_, stream = stream_](void* given) {
                driver().cuCtxSetCurrent(gpu->context);
                driver().cuStreamSynchronize(stream.get());
                driver().cuMemFreeHost(given);
            }};
}

void CudaQueue::reserve(std::size_t bytes) {
    if (bytes > reserved_) reserved_ = bytes;
}

std::shared_ptr<void> CudaQueue::scratch() {
    if (reserved_ > room_) {
        scratch_ = allocate(reserved_);
        room_ = reserved_;
    }
    return scratch_;
}

// Pageable memory is staged before the call returns.
void CudaQueue::upload(void* to, const void* from, std::size_t bytes) {
    HIMAR_CUDA(cuMemcpyHtoDAsync, address_of(to), from, bytes, stream());
}

void CudaQueue::copy(void* to, const void* from, std::size_t bytes) {
    HIMAR_CUDA(cuMemcpyDtoDAsync, address_of(to), address_of(from), bytes, stream());
}

void CudaQueue::clear(void* address, std::size_t bytes) {
    HIMAR_CUDA(cuMemsetD8Async, address_of(address), static_cast<unsigned char>(0), bytes, stream());
}

void CudaQueue::fetch(void* staging, const void* from, std::size_t bytes) {
    HIMAR_CUDA(cuMemcpyDtoHAsync, staging, address_of(from), bytes, stream());
}

void CudaQueue::download(void* to, const void* from, std::size_t bytes) {
    fetch(to, from, bytes);
    synchronize();
}

void CudaQueue::launch(const Launch& launch) {
    const auto pointers = launch.pointers();
    HIMAR_CUDA(cuLaunchKernel, gpu_->program->function(launch.kernel->entry), launch.blocks, 1u, 1u, launch.threads, 1u, 1u, 0u,
               stream(), const_cast<void**>(pointers.data()), nullptr);
}

void CudaQueue::synchronize() { HIMAR_CUDA(cuStreamSynchronize, stream()); }

std::unique_ptr<Mark> CudaQueue::mark() { return std::make_unique<Event>(stream()); }

std::unique_ptr<Graph> CudaQueue::record(const std::function<void()>& enqueue) {
    CUgraph_st* graph = nullptr;
    // Thread-local: other threads may allocate while this one records.
    HIMAR_CUDA(cuStreamBeginCapture, stream(), kCaptureThreadLocal);
    try {
        enqueue();
    } catch (...) {
        // An error of this call follows from the first.
        if (driver().cuStreamEndCapture(stream(), &graph) == 0 && graph != nullptr) driver().cuGraphDestroy(graph);
        throw;
    }
    HIMAR_CUDA(cuStreamEndCapture, stream(), &graph);
    const std::unique_ptr<CUgraph_st, int (*)(CUgraph_st*)> captured(graph, driver().cuGraphDestroy);
    CUgraphExec_st* executable = nullptr;
    HIMAR_CUDA(cuGraphInstantiate, &executable, graph, 0ull);
    return std::make_unique<Recorded>(executable, stream_);
}

}  // namespace himar::core::cuda
