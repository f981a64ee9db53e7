#include "host_device.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <stdexcept>
#include <utility>

#include "block.cuh"
#include "error.h"

using namespace himar::core;
using himar::HostBlock;
using himar::i64;
using himar::StepState;
using himar::u32;
using himar::u64;
using himar::u8;

namespace {

// Host functions of the kernels, as kernels/himar_kernels/cuda/host.cpp has them: blocks one after another, each with its threads.
#define HIMAR_UNWRAP(...) __VA_ARGS__
#define HIMAR_KERNEL(entry, body, words, parameters, arguments)                      \
    void entry(u32 blocks, u32 threads, HIMAR_UNWRAP parameters) {                   \
        std::vector<u32> shared(words);                                              \
        for (u32 turn = 0; turn < blocks; ++turn) {                                  \
            std::fill(shared.begin(), shared.end(), 0xCDCDCDCDu);                    \
            HostBlock block(turn, blocks, threads);                                  \
            himar::body(block, shared.data(), HIMAR_UNWRAP arguments);               \
        }                                                                            \
    }
#include "entries.cuh"

using Call = std::function<void(u32, u32, void**)>;

// Takes the arguments where a launch points to them, as the driver does.
template <class... P, std::size_t... I>
Call unpacking(void (*function)(u32, u32, P...), std::index_sequence<I...>) {
    return [function](u32 blocks, u32 threads, void** at) { function(blocks, threads, *static_cast<P*>(at[I])...); };
}

template <class... P>
Call unpacking(void (*function)(u32, u32, P...)) {
    return unpacking(function, std::index_sequence_for<P...>());
}

const std::map<std::string, Call>& entries() {
    static const std::map<std::string, Call> all = {
#define HIMAR_KERNEL(entry, body, words, parameters, arguments) {#entry, unpacking(entry)},
#include "entries.cuh"
    };
    return all;
}

struct Passed final : Mark {
    explicit Passed(HostDevice& device) : device_(device) {}
    void wait() override { device_.trace.push_back("wait"); }
    HostDevice& device_;
};

class QueuedEngine final : public Engine {
public:
    QueuedEngine(std::unique_ptr<Engine> engine, std::shared_ptr<HostDevice> device, std::string refusal)
        : engine_(std::move(engine)), device_(std::move(device)), refusal_(std::move(refusal)) {}

    const ComponentSpec& spec() const override { return engine_->spec(); }
    void run(Places places) override {
        device_->queue(spec().name, [engine = engine_, kept = std::vector<Place>(places.begin(), places.end())] {
            engine->run(kept);
        });
    }
    void forget_places() override { engine_->forget_places(); }
    std::string without_recording() const override { return refusal_; }
    std::unique_ptr<Engine> clone(const std::shared_ptr<ResidentDevice>& lane) const override {
        return std::make_unique<QueuedEngine>(engine_->clone(nullptr), std::static_pointer_cast<HostDevice>(lane), refusal_);
    }

private:
    std::shared_ptr<Engine> engine_;
    std::shared_ptr<HostDevice> device_;
    std::string refusal_;
};

}  // namespace

// Memory between guards; what a user reads before it was written is NaN as float32 and -1 as an integer.
struct HostDevice::Block {
    static constexpr std::size_t kGuard = Layout::kAlignment;
    static constexpr unsigned char kMark = 0x5A;

    explicit Block(std::size_t bytes) : size(bytes), memory(allocate_host(bytes + 2 * kGuard)) {
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

bool HostDevice::kept_inside() const {
    return std::all_of(blocks_.begin(), blocks_.end(), [](const std::weak_ptr<Block>& each) {
        const auto block = each.lock();
        return block == nullptr || block->untouched();
    });
}

long HostDevice::count(const std::string& name) const { return std::count(trace.begin(), trace.end(), name); }

void HostDevice::need_current() const {
    if (!is_current) throw std::logic_error("the device is not the calling thread's");
}

void HostDevice::synchronize() {
    need_current();
    trace.push_back("synchronize");
}

void HostDevice::queue(const std::string& name, std::function<void()> work) {
    need_current();
    if (recording_ != nullptr) {
        recording_->push_back(std::move(work));
        return;
    }
    trace.push_back(name);
    work();
}

std::shared_ptr<void> HostDevice::allocate(std::size_t bytes) {
    auto block = std::make_shared<Block>(bytes);
    blocks_.push_back(block);
    return {block, block->start()};
}

void HostDevice::upload(void* to, const void* from, std::size_t bytes) {
    need_current();
    if (recording_ != nullptr) throw std::logic_error("a copy from the host cannot be recorded");
    trace.push_back("upload");
    std::memcpy(to, from, bytes);
}

void HostDevice::copy(void* to, const void* from, std::size_t bytes) {
    queue("copy", [=] { std::memcpy(to, from, bytes); });
}

void HostDevice::clear(void* address, std::size_t bytes) {
    queue("clear", [=] { std::memset(address, 0, bytes); });
}

void HostDevice::fetch(void* staging, const void* from, std::size_t bytes) {
    queue("fetch", [=] { std::memcpy(staging, from, bytes); });
}

void HostDevice::download(void* to, const void* from, std::size_t bytes) {
    need_current();
    trace.push_back("download");
    std::memcpy(to, from, bytes);
}

void HostDevice::launch(Launch launch) {
    queue(launch.entry, [launch] { run_on_host(launch); });
}

std::unique_ptr<Mark> HostDevice::mark() {
    need_current();
    trace.push_back("mark");
    return std::make_unique<Passed>(*this);
}

std::unique_ptr<Graph> HostDevice::record(const std::function<void()>& enqueue) {
    struct Recorded final : Graph {
        explicit Recorded(HostDevice& device) : device_(device) {}
        void replay() override {
            device_.trace.push_back("replay");
            for (const auto& call : calls) call();
        }
        HostDevice& device_;
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

void run_on_host(Launch launch) {
    auto pointers = launch.pointers();
    entries().at(launch.entry)(launch.blocks, launch.threads, pointers.data());
}

Networks on_host_device(Networks networks, std::shared_ptr<HostDevice> device, const std::string& refusal) {
    const auto queued = [&](std::unique_ptr<Engine>& engine) -> std::unique_ptr<Engine> {
        if (engine == nullptr) return nullptr;
        return std::make_unique<QueuedEngine>(std::move(engine), device, refusal);
    };
    return {device, queued(networks.transformer_low), queued(networks.transformer_high), queued(networks.mlp_head),
            queued(networks.dit_head), queued(networks.vae_decoder)};
}
