#include "tracing_queue.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "error.h"

using namespace himar::core;

namespace {

struct Passed final : Mark {
    explicit Passed(TracingQueue& queue) : queue_(queue) {}
    void wait() override { queue_.trace.push_back("wait"); }
    TracingQueue& queue_;
};

class QueuedEngine final : public Engine {
public:
    QueuedEngine(std::unique_ptr<Engine> engine, std::shared_ptr<TracingQueue> queue, std::string refusal)
        : engine_(std::move(engine)), queue_(std::move(queue)), refusal_(std::move(refusal)) {}

    const ComponentSpec& spec() const override { return engine_->spec(); }
    void run(Places places) override {
        queue_->queue(spec().name, [engine = engine_, kept = std::vector<Place>(places.begin(), places.end())] {
            engine->run(kept);
        });
    }
    void forget_places() override { engine_->forget_places(); }
    std::string without_recording() const override { return refusal_; }
    std::unique_ptr<Engine> clone(const std::shared_ptr<Queue>& lane) const override {
        return std::make_unique<QueuedEngine>(engine_->clone(nullptr), std::static_pointer_cast<TracingQueue>(lane), refusal_);
    }

private:
    std::shared_ptr<Engine> engine_;
    std::shared_ptr<TracingQueue> queue_;
    std::string refusal_;
};

}  // namespace

// Memory between guards; what a user reads before it was written is NaN as float32 and -1 as an integer.
struct TracingQueue::Block {
    static constexpr std::size_t kGuard = Layout::kAlignment;
    static constexpr unsigned char kMark = 0x5A;

    Block(std::size_t bytes, std::shared_ptr<void> whole) : size(bytes), memory(std::move(whole)) {
        std::memset(memory.get(), kMark, bytes + 2 * kGuard);
        std::memset(start(), 0xFF, bytes);
    }
    unsigned char* start() const { return static_cast<unsigned char*>(memory.get()) + kGuard; }
    bool untouched() const {
        const auto is_mark = [](unsigned char byte) { return byte == kMark; };
        return std::all_of(start() - kGuard, start(), is_mark) &&
               std::all_of(start() + size, start() + size + kGuard, is_mark);
    }

    std::size_t size;
    std::shared_ptr<void> memory;
};

bool TracingQueue::kept_inside() const {
    return std::all_of(blocks_.begin(), blocks_.end(), [](const std::weak_ptr<Block>& each) {
        const auto block = each.lock();
        return block == nullptr || block->untouched();
    });
}

long TracingQueue::count(const std::string& name) const { return std::count(trace.begin(), trace.end(), name); }

void TracingQueue::need_current() const {
    if (!is_current) throw std::logic_error("the device is not the calling thread's");
}

void TracingQueue::synchronize() {
    need_current();
    trace.push_back("synchronize");
}

void TracingQueue::queue(const std::string& name, std::function<void()> work) {
    need_current();
    if (recording_ != nullptr) {
        recording_->push_back(std::move(work));
        return;
    }
    trace.push_back(name);
    work();
}

std::shared_ptr<void> TracingQueue::allocate(std::size_t bytes) {
    auto block = std::make_shared<Block>(bytes, HostQueue::allocate(bytes + 2 * Block::kGuard));
    blocks_.push_back(block);
    return {block, block->start()};
}

void TracingQueue::upload(void* to, const void* from, std::size_t bytes) {
    need_current();
    if (recording_ != nullptr) throw std::logic_error("a copy from the host cannot be recorded");
    trace.push_back("upload");
    HostQueue::copy(to, from, bytes);
}

void TracingQueue::copy(void* to, const void* from, std::size_t bytes) {
    queue("copy", [=] { HostQueue::copy(to, from, bytes); });
}

void TracingQueue::clear(void* address, std::size_t bytes) {
    queue("clear", [=] { HostQueue::clear(address, bytes); });
}

void TracingQueue::fetch(void* staging, const void* from, std::size_t bytes) {
    queue("fetch", [=] { HostQueue::copy(staging, from, bytes); });
}

void TracingQueue::download(void* to, const void* from, std::size_t bytes) {
    need_current();
    trace.push_back("download");
    HostQueue::copy(to, from, bytes);
}

// With the blocks and threads that it has on a GPU.
void TracingQueue::launch(const Launch& launch) {
    queue(launch.kernel->entry, [launch] { run_on_host(launch); });
}

std::unique_ptr<Mark> TracingQueue::mark() {
    need_current();
    trace.push_back("mark");
    return std::make_unique<Passed>(*this);
}

std::unique_ptr<Graph> TracingQueue::record(const std::function<void()>& enqueue) {
    struct Recorded final : Graph {
        explicit Recorded(TracingQueue& queue) : queue_(queue) {}
        void replay() override {
            queue_.trace.push_back("replay");
            for (const auto& call : calls) call();
        }
        TracingQueue& queue_;
        Calls calls;
    };
    if (!refuses_to_record.empty()) throw EngineError(refuses_to_record);
    auto graph = std::make_unique<Recorded>(*this);
    recording_ = &graph->calls;
    try {
        enqueue();
    } catch (...) {
        recording_ = nullptr;
        throw;
    }
    recording_ = nullptr;
    return graph;
}

Networks traced(Networks networks, std::shared_ptr<TracingQueue> queue, const std::string& refusal) {
    Networks made{queue, {}};
    for (auto& [name, engine] : networks.engines)
        made.engines[name] = std::make_unique<QueuedEngine>(std::move(engine), queue, refusal);
    for (const char* const name : {"var_trunk", "var_tail", "vae_encoder", "transformer_high_edit", "text_encoder",
                                   "dit_head_modulations", "dit_head_held"})
        if (networks.need(name) != nullptr)
            made.late[name] = std::make_unique<QueuedEngine>(std::move(networks.late.at(name)), queue, refusal);
    return made;
}
