// CUDA under the loop: memory, order, marks, graphs and launches do what the loop relies on.
#include <doctest/doctest.h>

#include <cstring>
#include <vector>

#include "../bundles.h"
#include "error.h"
#include "queue/cuda/queue.h"
#include "queue/host/queue.h"

using namespace himar::core;
using himar::u32;

namespace {

std::vector<u32> read(cuda::CudaQueue& device, const void* from, std::size_t count) {
    std::vector<u32> values(count);
    device.download(values.data(), from, count * sizeof(u32));
    return values;
}

}  // namespace

TEST_SUITE_BEGIN("gpu device");

TEST_CASE("memory is written, copied, cleared and read in the order of the calls") {
    const auto device = cuda::CudaQueue::open(0, false);
    device->make_current();
    const auto a = device->allocate(64), b = device->allocate(64);
    CHECK(reinterpret_cast<std::uintptr_t>(a.get()) % Layout::kAlignment == 0);
    std::vector<u32> values = {1, 2, 3, 4};
    device->upload(a.get(), values.data(), 16);
    values.assign(4, 9);  // a pageable source may be changed at once
    device->copy(b.get(), a.get(), 16);
    device->clear(a.get(), 8);
    CHECK(read(*device, a.get(), 4) == std::vector<u32>{0, 0, 3, 4});
    CHECK(read(*device, b.get(), 4) == std::vector<u32>{1, 2, 3, 4});
    const auto staging = device->allocate_staging(16);
    device->fetch(staging.get(), b.get(), 16);
    device->mark()->wait();
    CHECK(std::memcmp(staging.get(), std::vector<u32>{1, 2, 3, 4}.data(), 16) == 0);
}

TEST_CASE("every kernel loads, and ranks are those of the host to the bit") {
    const auto device = cuda::CudaQueue::open(0, false);
    device->make_current();
    constexpr u32 B = 3, n = 256;
    const himar::ImageOrigin origins[B] = {{7, 0, 0}, {7, 5, 0}, {~0ull, 4294967295u, 0}};
    const auto block = device->allocate(64 * 1024);
    char* const base = static_cast<char*>(block.get());
    auto* const there = reinterpret_cast<himar::ImageOrigin*>(base);
    auto* const ranks_there = reinterpret_cast<u32*>(base + 512);
    device->upload(there, origins, sizeof origins);
    device->launch(launches::ranks(ranks_there, there, 1, B, n));
    std::vector<u32> wanted(B * n);
    run_on_host(launches::ranks(wanted.data(), origins, 1, B, n));
    CHECK(read(*device, ranks_there, B * n) == wanted);
    cuda::Program program(cuda::compiled_kernels());
#define HIMAR_KERNEL(entry, body, words, parameters, arguments) CHECK(program.function(#entry) != nullptr);
#include "entries.cuh"
    CHECK_THROWS_AS(program.function("himar_nothing"), EngineError);
    holds(sentence_of<EngineError>([] { cuda::Program("no image"); }), "the CUDA kernels of this build do not load on this GPU: ");
}

TEST_CASE("a recorded graph runs when it is replayed, as often as it is, and reads what lies there then") {
    const auto device = cuda::CudaQueue::open(0, false);
    device->make_current();
    const auto from = device->allocate(16), to = device->allocate(16);
    const u32 first[4] = {1, 2, 3, 4}, second[4] = {5, 6, 7, 8};
    device->clear(to.get(), 16);
    device->upload(from.get(), first, 16);
    const auto graph = device->record([&] { device->copy(to.get(), from.get(), 16); });
    CHECK(read(*device, to.get(), 4) == std::vector<u32>{0, 0, 0, 0});
    graph->replay();
    CHECK(read(*device, to.get(), 4) == std::vector<u32>{1, 2, 3, 4});
    device->upload(from.get(), second, 16);
    graph->replay();
    CHECK(read(*device, to.get(), 4) == std::vector<u32>{5, 6, 7, 8});
}

TEST_CASE("what cannot be recorded is an error, and the lane goes on") {
    const auto device = cuda::CudaQueue::open(0, false);
    device->make_current();
    const auto block = device->allocate(16);
    CHECK_THROWS_AS(device->record([&] { device->synchronize(); }), EngineError);
    CHECK_THROWS_AS(device->record([] { throw EngineError("an engine refused"); }), EngineError);
    device->clear(block.get(), 16);
    CHECK(read(*device, block.get(), 4) == std::vector<u32>(4, 0));
}

TEST_CASE("lanes have streams of their own, or share one; scratch memory grows with what engines reserve") {
    const auto own = cuda::CudaQueue::open(0, false), shared = cuda::CudaQueue::open(0, true);
    CHECK(std::static_pointer_cast<cuda::CudaQueue>(own->another())->stream() != own->stream());
    CHECK(std::static_pointer_cast<cuda::CudaQueue>(shared->another())->stream() == shared->stream());
    own->reserve(1024);
    const auto before = own->scratch();
    CHECK(own->scratch() == before);
    own->reserve(4096);
    CHECK(own->scratch() != before);
}

TEST_CASE("what does not fit, and a GPU that is not there, are sentences") {
    const auto device = cuda::CudaQueue::open(0, false);
    device->make_current();
    const std::string said = sentence_of<EngineError>([&] { device->allocate(std::size_t{1} << 50); });
    holds(said, "cuda:0 has no room for a buffer of 1125899906842624 bytes (");
    holds(said, "Build the bundle with a smaller --max-batch, or use fewer lanes.");
    holds(sentence_of<EngineError>([] { cuda::CudaQueue::open(99, false); }), "cuda:99 is not a GPU that can be used here");
}

TEST_SUITE_END();
