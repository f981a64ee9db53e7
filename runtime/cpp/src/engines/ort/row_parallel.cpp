#include "engines/ort/row_parallel.h"

#include <algorithm>
#include <exception>
#include <system_error>

namespace himar::core {
namespace {

// Bytes of a network's weights that several cores can hold in their caches beside its activations.
constexpr std::int64_t kMostWeights = 16 << 20;

// Operations of a part: half a millisecond of a core. Another core is awake and under way after a quarter of one.
constexpr std::int64_t kLeastOperations = 35'000'000;

// Positions of a part where there are more parts than threads: activations of more leave a core's cache.
constexpr std::int64_t kMostPositions = 2048;

// The name of a tensor's first axis; empty where its first size is fixed.
std::string leading(const TensorSpec& tensor) {
    const auto* const axis = tensor.shape.empty() ? nullptr : std::get_if<std::string>(&tensor.shape.front());
    return axis == nullptr ? "" : *axis;
}

bool has_axis(const TensorSpec& tensor) {
    return std::any_of(tensor.shape.begin(), tensor.shape.end(),
                       [](const Axis& size) { return std::holds_alternative<std::string>(size); });
}

}  // namespace

std::optional<std::set<std::string>> shared_rows(const ComponentSpec& spec) {
    const std::string axis = spec.outputs.empty() ? "" : leading(spec.outputs.front());
    if (axis.empty()) return std::nullopt;
    std::set<std::string> names;
    for (const auto* const tensors : {&spec.inputs, &spec.outputs})
        for (const TensorSpec& tensor : *tensors) {
            const bool is_input = tensors == &spec.inputs;
            if (is_input && !has_axis(tensor)) continue;
            const bool again = std::count(tensor.shape.begin(), tensor.shape.end(), Axis(axis)) > 1;
            if (leading(tensor) != axis || (is_input && tensor.dtype == "int64") || again) return std::nullopt;
            names.insert(tensor.name);
        }
    if (names.size() == spec.outputs.size()) return std::nullopt;  // no input has rows
    return names;
}

bool splits_rows(const ComponentSpec& spec) {
    return spec.weight_bytes && *spec.weight_bytes <= kMostWeights && shared_rows(spec);
}

std::vector<std::int64_t> cuts(const ComponentSpec& spec, std::int64_t rows, std::int64_t positions, int threads) {
    const std::int64_t bytes = spec.precision == "int8" ? 1 : spec.precision == "fp16" ? 2 : 4;  // of a weight
    const std::int64_t operations = 2 * spec.weight_bytes.value_or(0) / bytes;  // of a position, which uses each once
    std::int64_t count = std::min({std::int64_t{threads}, rows, positions * operations / kLeastOperations});
    if (count > 1) {
        const std::int64_t most = count * kMostPositions;
        count = std::min(rows, count * ((positions + most - 1) / most));
    }
    count = std::max<std::int64_t>(count, 1);
    std::vector<std::int64_t> edges;
    for (std::int64_t part = 0; part <= count; ++part) edges.push_back(rows * part / count);
    return edges;
}

struct Workers::Job {
    const std::function<void(std::size_t)>& part;
    std::size_t count;
    std::size_t next = 0;     // part that nobody has begun
    std::size_t helping = 0;  // threads of the pool that are at it
    std::exception_ptr thrown;
};

Workers::~Workers() {
    {
        const std::lock_guard<std::mutex> lock(lock_);
        ends_ = true;
    }
    wanted_.notify_all();
    for (std::thread& thread : pool_) thread.join();
}

void Workers::run(std::size_t count, const std::function<void(std::size_t)>& part) {
    Job job{part, count, 0, 0, {}};
    std::unique_lock<std::mutex> lock(lock_);
    try {
        while (pool_.size() + 1 < static_cast<std::size_t>(most_)) pool_.emplace_back([this] { serve(); });
    } catch (const std::system_error&) {  // the system gives no more threads: those that there are do the work
    }
    const std::size_t helpers = std::min(pool_.size(), count - 1);
    helpers_wanted_.insert(helpers_wanted_.end(), helpers, &job);
    for (std::size_t i = 0; i < helpers; ++i) wanted_.notify_one();
    work(job, lock);
    helpers_wanted_.erase(std::remove(helpers_wanted_.begin(), helpers_wanted_.end(), &job), helpers_wanted_.end());
    done_.wait(lock, [&] { return job.helping == 0; });
    if (job.thrown) std::rethrow_exception(job.thrown);
}

void Workers::serve() {
    std::unique_lock<std::mutex> lock(lock_);
    while (true) {
        wanted_.wait(lock, [&] { return ends_ || !helpers_wanted_.empty(); });
        if (ends_) return;
        Job& job = *helpers_wanted_.front();
        helpers_wanted_.pop_front();
        ++job.helping;
        work(job, lock);
        if (--job.helping == 0) done_.notify_all();
    }
}

// Runs parts until none is left, or one has thrown.
void Workers::work(Job& job, std::unique_lock<std::mutex>& lock) {
    while (job.next < job.count && !job.thrown) {
        const std::size_t mine = job.next++;
        lock.unlock();
        std::exception_ptr thrown;
        try {
            job.part(mine);
        } catch (...) {
            thrown = std::current_exception();
        }
        lock.lock();
        if (thrown && !job.thrown) job.thrown = thrown;
    }
}

}  // namespace himar::core
