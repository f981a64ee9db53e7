// The queue of a GPU: a stream, the memory it owns, kernel launches and recorded graphs on that stream.
//
// Everything is queued in the stream's order and the host goes on; only `download`, `synchronize` and a mark's `wait`
// stop it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "queue/cuda/program.h"
#include "queue/queue.h"

namespace himar::core::cuda {

struct Capability {
    int major, minor;

    std::string text() const { return std::to_string(major) + "." + std::to_string(minor); }
};

// EngineError when there is no such GPU.
Capability compute_capability(int index);

// Bytes that the driver says are free on GPU `index`, its context made; nothing where it cannot be asked.
std::optional<std::int64_t> free_memory(int index);

class CudaQueue final : public Queue {
public:
    // Open a queue of GPU `index`; with `shared`, `another` gives queues on this one's stream, not on streams of their own.
    // EngineError: no driver, no such GPU, no kernels for it.
    static std::shared_ptr<CudaQueue> open(int index, bool shared);

    int index() const { return gpu_->index; }
    std::string name() const { return "cuda:" + std::to_string(gpu_->index); }
    Capability capability() const { return gpu_->capability; }
    CUstream_st* stream() const { return stream_.get(); }

    // Say that `scratch` must hold so many bytes. Said by every engine before any of them runs.
    void reserve(std::size_t bytes);

    // Memory that all engines of the queue share, since they run one after another. Reserving more after it was used gives
    // a new block from then on; the old one stays with its users.
    std::shared_ptr<void> scratch();

    // Graphs that were recorded before may not be replayed any more: what they ran from was given up.
    void forget_graphs() { ++epoch_; }

    bool runs_at_once() const override { return false; }
    void make_current() override;
    std::shared_ptr<void> allocate(std::size_t bytes) override;
    std::shared_ptr<void> allocate_staging(std::size_t bytes) override;
    void upload(void* to, const void* from, std::size_t bytes) override;
    void copy(void* to, const void* from, std::size_t bytes) override;
    void clear(void* address, std::size_t bytes) override;
    void fetch(void* staging, const void* from, std::size_t bytes) override;
    void download(void* to, const void* from, std::size_t bytes) override;
    void launch(const Launch& launch) override;
    void synchronize() override;
    std::unique_ptr<Mark> mark() override;

    // EngineError when something in it cannot be recorded: nothing has run then, and the stream is usable.
    std::unique_ptr<Graph> record(const std::function<void()>& enqueue) override;
    std::shared_ptr<Queue> another() const override;
    unsigned epoch() const override { return epoch_; }

private:
    // What all queues of a GPU share: its primary context, which NVIDIA's libraries use too, and the kernels in it.
    struct Gpu {
        explicit Gpu(int number);
        ~Gpu();
        Gpu(const Gpu&) = delete;
        Gpu& operator=(const Gpu&) = delete;
        void make_current() const;

        int index;
        Capability capability{};
        int handle = 0;
        CUctx_st* context = nullptr;
        std::unique_ptr<Program> program;
    };

    CudaQueue(std::shared_ptr<Gpu> gpu, bool shared, std::shared_ptr<CUstream_st> stream);
    static std::shared_ptr<CUstream_st> make_stream(const std::shared_ptr<Gpu>& gpu);

    std::shared_ptr<Gpu> gpu_;
    bool shared_;
    std::shared_ptr<CUstream_st> stream_;
    std::shared_ptr<void> scratch_;
    std::size_t room_ = 0, reserved_ = 0;
    unsigned epoch_ = 0;
};

}  // namespace himar::core::cuda
