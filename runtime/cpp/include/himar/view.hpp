// Part of himar.hpp: errors, and views of what a result or a pipeline owns.
#ifndef HIMAR_VIEW_HPP
#define HIMAR_VIEW_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "himar.h"

namespace himar {

// A call that failed: what() is the sentence of himar_last_error.
class Error : public std::runtime_error {
public:
    Error(himar_status status, const std::string& sentence) : std::runtime_error(sentence), status_(status) {}
    himar_status status() const noexcept { return status_; }

private:
    himar_status status_;
};

// Throw Error unless a call went well; HIMAR_CANCELLED is not an error.
inline himar_status check(himar_status status) {
    if (status != HIMAR_OK && status != HIMAR_CANCELLED) throw Error(status, himar_last_error());
    return status;
}

// An array that another object owns, with up to four sizes; C-contiguous.
template <class T>
class View {
public:
    View(const T* data, std::array<std::int64_t, 4> shape)
        : data_(data), size_(static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3])), shape_(shape) {}

    const T* data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }
    const T* begin() const noexcept { return data_; }
    const T* end() const noexcept { return data_ + size_; }
    const T& operator[](std::size_t index) const { return data_[index]; }
    const std::array<std::int64_t, 4>& shape() const noexcept { return shape_; }

    // Everything of image `index`, its first size 1. std::out_of_range when there is no such image.
    View image(std::int64_t index) const {
        if (index < 0 || index >= shape_[0]) throw std::out_of_range("himar: no image " + std::to_string(index));
        return View(data_ + index * (shape_[1] * shape_[2] * shape_[3]), {1, shape_[1], shape_[2], shape_[3]});
    }

private:
    const T* data_;
    std::size_t size_;
    std::array<std::int64_t, 4> shape_;
};

}  // namespace himar

#endif
