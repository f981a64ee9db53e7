// What the loop needs of a device: memory, and a queue of launches that runs in order.
//
// host/queue.h runs everything at once, in the calling thread; cuda/queue.h queues it on a stream of a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "queue/launches.h"

namespace himar::core {

// Lays arrays out one after another in one block: once without a block to count the bytes, once to place them.
class Layout {
public:
    // What a block must be aligned to; TensorRT requires it of an engine's tensors.
    static constexpr std::size_t kAlignment = 256;

    explicit Layout(void* block = nullptr) : block_(static_cast<char*>(block)) {}

    // Give an array of `count` elements its place; null while only counting.
    template <class T>
    void take(T*& pointer, std::int64_t count) {
        pointer = block_ == nullptr ? nullptr : reinterpret_cast<T*>(block_ + end_);
        end_ += (static_cast<std::size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    }

    std::size_t bytes() const { return end_; }

private:
    char* block_;
    std::size_t end_ = 0;
};

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

// Not thread-safe: a queue belongs to one thread at a time, except for `another`. Every function throws EngineError when
// the device refuses.
class Queue {
public:
    virtual ~Queue() = default;

    // True where each call has run when it returns: nothing is gained by recording, or by working one step ahead.
    virtual bool runs_at_once() const = 0;

    virtual void make_current() = 0;  // prepare the calling thread

    // Memory of the device, or of the host where copies from the device need not be waited for; aligned to
    // Layout::kAlignment, and freed with the last reference.
    virtual std::shared_ptr<void> allocate(std::size_t bytes) = 0;
    virtual std::shared_ptr<void> allocate_staging(std::size_t bytes) = 0;

    virtual void upload(void* to, const void* from, std::size_t bytes) = 0;  // `from` may be changed on return
    virtual void copy(void* to, const void* from, std::size_t bytes) = 0;    // on the device
    virtual void clear(void* address, std::size_t bytes) = 0;                // to zero
    virtual void fetch(void* staging, const void* from, std::size_t bytes) = 0;  // queued: there after a mark
    virtual void download(void* to, const void* from, std::size_t bytes) = 0;    // waits for all that is queued
    virtual void launch(const Launch& launch) = 0;
    virtual void synchronize() = 0;
    virtual std::unique_ptr<Mark> mark() = 0;

    // Record what `enqueue` queues, without running it.
    virtual std::unique_ptr<Graph> record(const std::function<void()>& enqueue) = 0;

    // Another queue of the same device. Any thread may call it.
    virtual std::shared_ptr<Queue> another() const = 0;

    // Changes when graphs that were recorded before may no longer be replayed.
    virtual unsigned epoch() const = 0;
};

}  // namespace himar::core
