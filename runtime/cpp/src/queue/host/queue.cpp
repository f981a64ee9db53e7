#include "queue/host/queue.h"

#include <cstring>
#include <new>

#include "error.h"

namespace himar::core {

std::shared_ptr<void> HostQueue::allocate(std::size_t bytes) {
    constexpr std::align_val_t alignment{Layout::kAlignment};
    return {::operator new(bytes, alignment), [](void* block) { ::operator delete(block, alignment); }};
}

void HostQueue::copy(void* to, const void* from, std::size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
}

void HostQueue::clear(void* address, std::size_t bytes) {
    if (bytes > 0) std::memset(address, 0, bytes);
}

// One thread does all the work: more would only take turns.
void HostQueue::launch(const Launch& launch) { run_on_host(launch, 1, 1); }

std::unique_ptr<Mark> HostQueue::mark() {
    struct Passed final : Mark {
        void wait() override {}
    };
    return std::make_unique<Passed>();
}

std::unique_ptr<Graph> HostQueue::record(const std::function<void()>&) {
    throw EngineError("the CPU runs everything at once and records nothing.");
}

void run_on_host(const Launch& launch, u32 blocks, u32 threads) {
    const auto arguments = launch.pointers();
    launch.kernel->on_host(blocks, threads, arguments.data());
}

}  // namespace himar::core
