// What the resident loop needs of a device: a lane with memory and a queue that runs in order.
//
// cuda/device.h is the one of a GPU; the tests have one in host memory, where everything runs at once.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "launches.h"

namespace himar::core {

// Work that was recorded, or a place in the queue; freed with the object.
class Graph {
public:
    virtual ~Graph() = default;
    virtual void replay() = 0;  // queue it again
};

class Mark {
public:
    virtual ~Mark() = default;
    virtual void wait() = 0;  // until the queue has passed it
};

// Not thread-safe: a lane belongs to one thread at a time, but for `another`. Every function throws EngineError when the
// device refuses.
class ResidentDevice {
public:
    virtual ~ResidentDevice() = default;

    virtual void make_current() = 0;  // prepare the calling thread

    // Memory of the device, or of the host where copies from the device need not be waited for; at a multiple of 256
    // bytes, and freed with the last reference.
    virtual std::shared_ptr<void> allocate(std::size_t bytes) = 0;
    virtual std::shared_ptr<void> allocate_staging(std::size_t bytes) = 0;

    virtual void upload(void* to, const void* from, std::size_t bytes) = 0;  // `from` may be changed on return
    virtual void copy(void* to, const void* from, std::size_t bytes) = 0;    // on the device
    virtual void clear(void* address, std::size_t bytes) = 0;                // to zero
    virtual void fetch(void* staging, const void* from, std::size_t bytes) = 0;  // queued: there after a mark
    virtual void download(void* to, const void* from, std::size_t bytes) = 0;    // waits for all that is queued
    virtual void launch(Launch launch) = 0;
    virtual void synchronize() = 0;
    virtual std::unique_ptr<Mark> mark() = 0;

    // Record what `enqueue` queues, without running it.
    virtual std::unique_ptr<Graph> record(const std::function<void()>& enqueue) = 0;

    // Another lane of the same device. Any thread may call it.
    virtual std::shared_ptr<ResidentDevice> another() const = 0;

    // Changes when graphs that were recorded before may not be replayed any more.
    virtual unsigned epoch() const = 0;
};

}  // namespace himar::core
