// The modulations of a DiT head between its two engines: one makes them, the other takes them (docs/forecast.md, "Held
// modulations").
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <vector>

#include "engines/engine.h"
#include "queue/queue.h"

namespace himar::core::hi_mar {

class HeldModulations {
public:
    // Allocate what so many rows [conditional; unconditional] take as one block, after the outputs of `maker`. BundleError
    // when those are not (rows, n, width) of fixed n and width. Both engines must live as long.
    HeldModulations(Engine& maker, Engine& head, std::int64_t rows, Queue& queue);

    // The bytes that so many rows take. BundleError too.
    static std::size_t bytes(const ComponentSpec& maker, std::int64_t rows);

    Engine& maker() const { return *maker_; }
    Engine& head() const { return *head_; }

    // Tensors of either engine: these, and the modulations of the first rows.
    std::vector<Place> with(std::initializer_list<Place> others, std::int64_t rows) const;

private:
    static std::vector<Place> places_of(const ComponentSpec& maker);
    static std::size_t place_all(void* block, std::vector<Place>& places, std::int64_t rows);

    Engine *maker_, *head_;
    std::shared_ptr<void> block_;
    std::vector<Place> places_;  // of one row each, named as the maker names them
};

}  // namespace himar::core::hi_mar
