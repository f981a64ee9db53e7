// How near to each other results must be: another batch size, CPU or language adds up in another order, so an array's
// elements are rounded by the size of what was added, and it is arrays that agree, not each element by itself.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdlib>

// Largest relative L2 distance of the latents of two runs through the same engines, as in tests/closeness.py.
constexpr double kSameEngines = 1e-5;

// The relative L2 distance of two arrays of one size: |values - wanted| / |wanted|.
template <class Values, class Wanted>
double relative(const Values& values, const Wanted& wanted) {
    REQUIRE(values.size() == wanted.size());
    double apart = 0, whole = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
        apart += std::pow(static_cast<double>(values[i]) - static_cast<double>(wanted[i]), 2);
        whole += std::pow(static_cast<double>(wanted[i]), 2);
    }
    return std::sqrt(apart / whole);
}

// The largest difference of two images' values. One is within the contract: a value may be rounded to either side.
template <class Values, class Wanted>
int pixels_apart(const Values& values, const Wanted& wanted) {
    REQUIRE(values.size() == wanted.size());
    int most = 0;
    for (std::size_t i = 0; i < values.size(); ++i) most = std::max(most, std::abs(int{values[i]} - int{wanted[i]}));
    return most;
}
