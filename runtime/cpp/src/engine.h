// What the loop needs of an engine, whatever runs it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <vector>

#include "manifest.h"

namespace himar::core {

enum class Dtype { kFloat32, kInt64 };

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
};
using Places = std::initializer_list<Place>;

// One component compiled for a backend. Not thread-safe: a clone per thread.
class Engine {
public:
    virtual ~Engine() = default;

    virtual const ComponentSpec& spec() const = 0;

    // Run with every input and output at its place; nothing is copied. EngineError when the engine refuses or fails.
    virtual void run(Places places) = 0;

    // The places of earlier runs are about to be freed.
    virtual void forget_places() = 0;

    // An engine that shares the weights and has its own places. Any thread may call it, also during a run.
    virtual std::unique_ptr<Engine> clone() const = 0;
};

}  // namespace himar::core
