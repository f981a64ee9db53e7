// What we use of cuBLASLt: found at run time in the library that ONNX Runtime's CUDA provider itself needs, so that one
// library of ours goes with CUDA 12 and 13, in Python and in C++, and compiles where cuBLASLt's header is not. Numbers
// and layouts are those of NVIDIA's interface since cuBLAS 11.8; a test compares them with its header.
#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

namespace himar::fused::lt {

using Handle = void*;
using Stream = void*;
using Status = int;  // 0: it worked

enum Type : int { kFloat32 = 0, kFloat16 = 2, kBfloat16 = 14, kE4m3 = 28 };
enum Compute : int { kInFloat32 = 68 };
enum Epilogue : int { kNothing = 1, kBias = 4, kGeluBias = 36 };
enum Attribute : int {
    kTurnA = 3,
    kEpilogue = 7,
    kBiasPointer = 8,
    kScaleOfA = 17,
    kScaleOfB = 18,
    kScaleOfD = 20,
    kBiasType = 26
};
enum Preferred : int { kMostWorkspace = 1, kAlignmentOfA = 5, kAlignmentOfB, kAlignmentOfC, kAlignmentOfD };

// cuBLASLt makes and destroys what these point to.
struct Description;
struct Layout;
struct Preference;

struct Algorithm {
    std::uint64_t data[8];
};
struct Found {
    Algorithm algorithm;
    std::size_t workspace;  // bytes
    Status state;
    float waves;
    int reserved[4];
};

// The functions. `get` loads them once for the process.
class Library {
  public:
    static const Library& get() {
        static const Library library({"libcublasLt.so.13", "libcublasLt.so.12"});
        return library;
    }

    // names: of the library, the first that is loaded already or else the first that can be. Throws where none can.
    explicit Library(std::initializer_list<const char*> names) {
        void* const opened = open(names);
        find(opened, "cublasLtCreate", create);
        find(opened, "cublasLtMatmul", matmul);
        find(opened, "cublasLtMatmulAlgoGetHeuristic", algorithms);
        find(opened, "cublasLtMatmulDescCreate", make_description);
        find(opened, "cublasLtMatmulDescDestroy", destroy_description);
        find(opened, "cublasLtMatmulDescSetAttribute", set);
        find(opened, "cublasLtMatrixLayoutCreate", make_layout);
        find(opened, "cublasLtMatrixLayoutDestroy", destroy_layout);
        find(opened, "cublasLtMatmulPreferenceCreate", make_preference);
        find(opened, "cublasLtMatmulPreferenceDestroy", destroy_preference);
        find(opened, "cublasLtMatmulPreferenceSetAttribute", prefer);
        find(opened, "cublasLtGetStatusString", words_of);
    }

    Status (*create)(Handle*);
    Status (*matmul)(Handle, Description*, const void* alpha, const void* a, Layout*, const void* b, Layout*,
                     const void* beta, const void* c, Layout*, void* d, Layout*, const Algorithm*, void* workspace,
                     std::size_t bytes, Stream);
    Status (*algorithms)(Handle, Description*, Layout* a, Layout* b, Layout* c, Layout* d, Preference*, int wanted,
                         Found*, int* found);
    Status (*make_description)(Description**, Compute, Type of_factors);
    Status (*destroy_description)(Description*);
    Status (*set)(Description*, Attribute, const void*, std::size_t bytes);
    Status (*make_layout)(Layout**, Type, std::uint64_t rows, std::uint64_t columns, std::int64_t leading);
    Status (*destroy_layout)(Layout*);
    Status (*make_preference)(Preference**);
    Status (*destroy_preference)(Preference*);
    Status (*prefer)(Preference*, Preferred, const void*, std::size_t bytes);
    const char* (*words_of)(Status);

    // Throws what cuBLASLt says where a call of it failed. doing: "choose an algorithm".
    void require(Status status, const std::string& doing) const {
        if (status == 0) return;
        throw std::runtime_error("cuBLASLt cannot " + doing + " (" + words_of(status) +
                                 "); set HIMAR_LINEAR to 0 to go without it");
    }

  private:
    static void* open(std::initializer_list<const char*> names) {
        std::string tried, why;
        for (const int loaded : {RTLD_NOLOAD, 0}) {
            for (const char* const name : names) {
                if (void* const found = dlopen(name, RTLD_NOW | RTLD_LOCAL | loaded)) return found;
                if (loaded) continue;
                if (const char* const error = dlerror(); why.empty() && error != nullptr) why = error;
                tried += (tried.empty() ? "" : " nor ") + std::string(name);
            }
        }
        throw std::runtime_error("linear layers need cuBLASLt, and neither " + tried + " can be loaded (" + why +
                                 "); install it (pip install nvidia-cublas), or set HIMAR_LINEAR to 0 to go without");
    }

    template <class Function>
    static void find(void* opened, const char* name, Function*& function) {
        function = reinterpret_cast<Function*>(dlsym(opened, name));
        if (function != nullptr) return;
        throw std::runtime_error(std::string("the cuBLASLt that is loaded has no ") + name +
                                 "; install that of CUDA 12 or 13, or set HIMAR_LINEAR to 0 to go without");
    }
};

// Something that cuBLASLt made, destroyed with this.
template <class Item>
class Owned {
  public:
    Owned(Item* item, Status (*destroy)(Item*)) : item_(item), destroy_(destroy) {}
    Owned(Owned&& other) noexcept : item_(std::exchange(other.item_, nullptr)), destroy_(other.destroy_) {}
    Owned& operator=(Owned&&) = delete;
    ~Owned() {
        if (item_ != nullptr) destroy_(item_);
    }
    Item* get() const { return item_; }

  private:
    Item* item_;
    Status (*destroy_)(Item*);
};

inline Owned<Description> description(const Library& library) {
    Description* made = nullptr;
    library.require(library.make_description(&made, kInFloat32, kFloat32), "describe a product");
    return {made, library.destroy_description};
}

template <class Value>
void set(const Library& library, const Owned<Description>& description, Attribute attribute, const Value& value) {
    library.require(library.set(description.get(), attribute, &value, sizeof value), "describe a product");
}

// A matrix whose columns lie one behind the other.
inline Owned<Layout> layout(const Library& library, Type type, std::int64_t rows, std::int64_t columns) {
    Layout* made = nullptr;
    const auto height = static_cast<std::uint64_t>(rows), width = static_cast<std::uint64_t>(columns);
    library.require(library.make_layout(&made, type, height, width, rows), "describe a matrix");
    return {made, library.destroy_layout};
}

inline Owned<Preference> preference(const Library& library) {
    Preference* made = nullptr;
    library.require(library.make_preference(&made), "take preferences");
    return {made, library.destroy_preference};
}

template <class Value>
void prefer(const Library& library, const Owned<Preference>& preference, Preferred which, const Value& value) {
    library.require(library.prefer(preference.get(), which, &value, sizeof value), "take preferences");
}

}  // namespace himar::fused::lt
