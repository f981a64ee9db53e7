// What the loop needs of an engine, whatever runs it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "bundle/manifest.h"

namespace himar::core {

class Queue;

enum class Dtype { kFloat32, kFloat16, kInt64 };

// What manifests call a type, and the other way round: EngineError for one that they do not know.
const char* name_of(Dtype dtype);
Dtype dtype_named(const std::string& name);

// Bytes of an element.
constexpr std::size_t size_of(Dtype dtype) {
    return dtype == Dtype::kInt64 ? sizeof(std::int64_t) : dtype == Dtype::kFloat32 ? sizeof(float) : 2;
}

struct Shape {
    std::int64_t sizes[4] = {0, 0, 0, 0};
    std::size_t rank = 0;

    Shape(std::initializer_list<std::int64_t> values) {
        for (const std::int64_t value : values) sizes[rank++] = value;
    }
    std::int64_t count() const {
        std::int64_t product = 1;
        for (std::size_t i = 0; i < rank; ++i) product *= sizes[i];
        return product;
    }
};

// A C-contiguous tensor that lies at an address where the engine runs, under the name that the component gives it.
struct Place {
    const char* name;
    Dtype dtype;
    void* address;
    Shape shape;

    Place(const char* n, float* at, Shape s) : name(n), dtype(Dtype::kFloat32), address(at), shape(s) {}
    Place(const char* n, long long* at, Shape s) : name(n), dtype(Dtype::kInt64), address(at), shape(s) {}
    Place(const char* n, Dtype d, void* at, Shape s) : name(n), dtype(d), address(at), shape(s) {}
};

// Places in somebody else's memory, as long as a call lasts.
class Places {
public:
    Places(std::initializer_list<Place> places) : count_(places.size()) { first_ = places.begin(); }
    Places(const std::vector<Place>& places) : first_(places.data()), count_(places.size()) {}
    Places(const Place* first, std::size_t count) : first_(first), count_(count) {}

    const Place* begin() const { return first_; }
    const Place* end() const { return first_ + count_; }
    std::size_t size() const { return count_; }

private:
    const Place* first_;
    std::size_t count_;
};

// What tells one set of places from another: addresses and shapes, in the order that the loop gives them.
inline void write_key(Places places, std::vector<std::int64_t>& key) {
    key.clear();
    for (const Place& place : places) {
        key.push_back(static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(place.address)));
        key.insert(key.end(), place.shape.sizes, place.shape.sizes + place.shape.rank);
    }
}

// EngineError unless a component has as many tensors as there are places for them.
void check_count(const ComponentSpec& spec, Places places);

// True for the place of one of a component's inputs, false for that of an output. EngineError for a place of neither, or
// of another type than the component's tensor has: an engine would read or write beyond its end.
bool is_input(const ComponentSpec& spec, const Place& place);

// One component compiled for a backend. Not thread-safe: a clone per thread.
class Engine {
public:
    virtual ~Engine() = default;

    virtual const ComponentSpec& spec() const = 0;

    // Run with every input and output at its place; nothing is copied. On a GPU the run is queued on the engine's queue,
    // and nobody waits for it. EngineError when the engine refuses or fails.
    virtual void run(Places places) = 0;

    // The places of earlier runs are about to be freed.
    virtual void forget_places() = 0;

    // Why runs cannot be recorded in a CUDA graph; empty when they can.
    virtual std::string without_recording() const = 0;

    // An engine for another lane: it shares the weights and has its own places. `queue`: the lane's, where it is a GPU's.
    // Any thread may call it, also during a run.
    virtual std::unique_ptr<Engine> clone(const std::shared_ptr<Queue>& queue) const = 0;
};

}  // namespace himar::core
