// A bundle's engines, ready to generate: chunks a request, joins what the lane gives.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "bundle.h"
#include "networks.h"
#include "request.h"
#include "result.h"
#include "runner.h"

namespace himar::core {

// What himar_progress.preview points to.
using Preview = std::function<PreviewPixels()>;

class Pipeline {
public:
    // Open and check the bundle and load its engines. BundleError, EngineError, InputError.
    static std::unique_ptr<Pipeline> load(const std::filesystem::path& path, const LoadRequest& request);

    // Another lane for another thread: shared weights, own buffers. Any thread may call it, also during `generate`.
    std::unique_ptr<Pipeline> clone() const;

    // Generate; concurrent calls wait for each other. InputError when called from its own callback.
    Result generate(const Request& request, const OnStep& on_step);

    const Bundle& bundle() const { return *bundle_; }

    // True in the thread that is inside `generate` of this pipeline, that is in its callback.
    bool generates_here() const { return generating_.load() == std::this_thread::get_id(); }

private:
    Pipeline(std::shared_ptr<const Bundle> bundle, std::unique_ptr<Runner> runner);

    std::shared_ptr<const Bundle> bundle_;
    std::unique_ptr<Runner> runner_;
    std::mutex one_at_a_time_;
    std::atomic<std::thread::id> generating_{};
};

// Sizes of chunks of at most `most` images, as equal as can be, the larger ones first.
std::vector<std::size_t> chunk_sizes(std::size_t images, std::size_t most);

}  // namespace himar::core
