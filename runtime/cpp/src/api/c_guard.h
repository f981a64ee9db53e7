// The border between the library's exceptions and the C interface's statuses.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <initializer_list>
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

// A struct as this library knows it, the fields that an earlier header lacked as 0. InputError for a struct_size that no
// header of this interface had; `earlier` are those of the others, `advice` how to set it.
template <class Params>
Params checked(const Params& params, const char* name, const std::string& advice,
               std::initializer_list<std::size_t> earlier = {}) {
    const std::size_t size = params.struct_size;
    if (size != sizeof params && std::find(earlier.begin(), earlier.end(), size) == earlier.end())
        throw InputError(std::string(name) + ".struct_size is " + std::to_string(size) + "; it must be " +
                         std::to_string(sizeof params) + ": " + advice + ".");
    Params known{};
    std::memcpy(&known, &params, size);
    known.struct_size = sizeof known;
    return known;
}

// The same of parameters that `init` fills.
template <class Params>
Params checked_params(const Params& params, const char* name, const char* init,
                      std::initializer_list<std::size_t> earlier = {}) {
    return checked(params, name,
                   std::string("call ") + init + " first, and compile with the header of the library that is linked",
                   earlier);
}

}  // namespace himar::core
