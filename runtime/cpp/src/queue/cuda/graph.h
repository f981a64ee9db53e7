// CUDA's events and graphs as the loop's marks and recordings.
#pragma once

#include <functional>
#include <memory>

#include "queue/cuda/driver.h"
#include "queue/queue.h"

namespace himar::core::cuda {

// An event in a stream, destroyed with the object, waited for or not.
class Event final : public Mark {
public:
    explicit Event(CUstream_st* stream);
    ~Event() override;
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    void wait() override;

private:
    CUevent_st* event_ = nullptr;
};

// Record what `enqueue` queues in a stream, without running it. EngineError when something in it cannot be recorded:
// nothing has run then, and the stream is usable.
std::unique_ptr<Graph> record_graph(const std::shared_ptr<CUstream_st>& stream, const std::function<void()>& enqueue);

}  // namespace himar::core::cuda
