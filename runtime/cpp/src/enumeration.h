// Enumerations that a caller of the C interface filled: any number may stand in them, whatever the header lists.
#pragma once

#include <cstring>

namespace himar::core {

// The number that stands in an enumeration. Read as one, a number that it does not list would be undefined.
template <class Enumeration>
int number_of(const Enumeration& value) {
    int number;
    static_assert(sizeof number == sizeof value, "C enumerations are ints");
    std::memcpy(&number, &value, sizeof number);
    return number;
}

}  // namespace himar::core
