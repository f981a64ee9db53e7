// The queue of the CPU: the kernels' host build on the host's memory, where every call has run when it returns.
#pragma once

#include "queue/queue.h"

namespace himar::core {

class HostQueue : public Queue {
public:
    bool runs_at_once() const override { return true; }
    void make_current() override {}
    std::shared_ptr<void> allocate(std::size_t bytes) override;  // std::bad_alloc when there is none
    std::shared_ptr<void> allocate_staging(std::size_t bytes) override { return allocate(bytes); }
    void upload(void* to, const void* from, std::size_t bytes) override { copy(to, from, bytes); }
    void copy(void* to, const void* from, std::size_t bytes) override;
    void clear(void* address, std::size_t bytes) override;
    void fetch(void* staging, const void* from, std::size_t bytes) override { copy(staging, from, bytes); }
    void download(void* to, const void* from, std::size_t bytes) override { copy(to, from, bytes); }
    void launch(const Launch& launch) override;
    void synchronize() override {}
    std::unique_ptr<Mark> mark() override;
    std::unique_ptr<Graph> record(const std::function<void()>& enqueue) override;
    std::shared_ptr<Queue> another() const override { return std::make_shared<HostQueue>(); }
    unsigned epoch() const override { return 0; }
};

// Run a launch on host addresses with these blocks and threads, one after another; by default with its own.
void run_on_host(const Launch& launch, u32 blocks, u32 threads);
inline void run_on_host(const Launch& launch) { run_on_host(launch, launch.blocks, launch.threads); }

}  // namespace himar::core
