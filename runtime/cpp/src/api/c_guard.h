// The border between the library's exceptions and the C interface's statuses.
#pragma once

#include <cstring>
#include <exception>
#include <new>
#include <string>

#include "error.h"

namespace himar::core {

// Keep what himar_last_error gives; never throws.
void keep_error(const char* sentence) noexcept;

// Run `body`, which returns a status; turn what it throws into a status and a kept sentence.
template <class Body>
himar_status guarded(Body body) noexcept {
    try {
        return body();
    } catch (const Error& error) {
        keep_error(error.what());
        return error.status();
    } catch (const std::bad_alloc&) {
        keep_error("no memory is left; ask for fewer images at once, or build the bundle with a smaller --max-batch.");
        return HIMAR_ERROR_MEMORY;
    } catch (const std::exception& error) {
        keep_error((std::string("a fault inside himar: ") + error.what() + "; please report it.").c_str());
        return HIMAR_ERROR_INTERNAL;
    } catch (...) {
        keep_error("a fault inside himar of unknown kind; please report it.");
        return HIMAR_ERROR_INTERNAL;
    }
}

// InputError, naming the argument, when a pointer that must be given is null.
template <class T>
T& given(T* pointer, const char* name) {
    if (pointer == nullptr) throw InputError(std::string(name) + " is NULL; give its address.");
    return *pointer;
}

// The number that stands in an enumeration of the C interface, where any may: read as the enumeration, one that it does
// not list would be undefined.
template <class Enumeration>
int number_of(const Enumeration& value) {
    int number;
    static_assert(sizeof number == sizeof value, "C enumerations are ints");
    std::memcpy(&number, &value, sizeof number);
    return number;
}

// Parameters of a struct as this library knows it; InputError for a struct_size that no header of this interface had.
template <class Params>
Params checked(const Params& params, const char* name, const char* init) {
    if (params.struct_size != sizeof params)
        throw InputError(std::string(name) + ".struct_size is " + std::to_string(params.struct_size) + "; it must be " +
                         std::to_string(sizeof params) + ": call " + init +
                         " first, and compile with the header of the library that is linked.");
    return params;
}

}  // namespace himar::core
