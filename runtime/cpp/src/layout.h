// Lays arrays out one after another in one block: once without a block to count the bytes, once to place them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace himar::core {

class Layout {
public:
    // What a block must be aligned to; engines of TensorRT ask it of their tensors.
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

// Memory where the arrays lie: a block of at least so many bytes at a multiple of Layout::kAlignment.
using Allocate = std::function<std::shared_ptr<void>(std::size_t)>;

}  // namespace himar::core
