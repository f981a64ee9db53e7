// The resident loop's device in the host's memory: the kernels' host build, and engines of ONNX Runtime on host addresses.
//
// Only CUDA itself is missing: the loop, its launches, buffers and graph keys are those that run on a GPU.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "networks.h"
#include "resident/device.h"

// A queue that runs at once. Recording keeps calls instead of running them.
class HostDevice final : public himar::core::ResidentDevice {
public:
    std::vector<std::string> trace;  // every call in order
    unsigned epoch_now = 0;
    std::string refuses_to_record;   // why `record` fails; empty when it does not
    bool is_current = true;          // false, as a user's function may leave it: nothing is queued then

    // Whether every block still stands between its guard bytes.
    bool kept_inside() const;

    long count(const std::string& name) const;  // in the trace

    // Queue any work under a name.
    void queue(const std::string& name, std::function<void()> work);

    void make_current() override { is_current = true; }
    std::shared_ptr<void> allocate(std::size_t bytes) override;
    std::shared_ptr<void> allocate_staging(std::size_t bytes) override { return allocate(bytes); }
    void upload(void* to, const void* from, std::size_t bytes) override;
    void copy(void* to, const void* from, std::size_t bytes) override;
    void clear(void* address, std::size_t bytes) override;
    void fetch(void* staging, const void* from, std::size_t bytes) override;
    void download(void* to, const void* from, std::size_t bytes) override;
    void launch(himar::core::Launch launch) override;
    void synchronize() override;
    std::unique_ptr<himar::core::Mark> mark() override;
    std::unique_ptr<himar::core::Graph> record(const std::function<void()>& enqueue) override;
    std::shared_ptr<ResidentDevice> another() const override { return std::make_shared<HostDevice>(); }
    unsigned epoch() const override { return epoch_now; }

private:
    struct Block;
    using Calls = std::vector<std::function<void()>>;

    void need_current() const;  // std::logic_error

    Calls* recording_ = nullptr;
    std::vector<std::weak_ptr<Block>> blocks_;
};

// Run a launch on host addresses, blocks and threads in turn; throws std::out_of_range for an entry that is none.
void run_on_host(himar::core::Launch launch);

// The same engines with their runs in the queue of `device`, so that they can be recorded; `refusal` is why they refuse.
himar::core::Networks on_host_device(himar::core::Networks networks, std::shared_ptr<HostDevice> device,
                                     const std::string& refusal = "");
