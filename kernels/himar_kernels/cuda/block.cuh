// How a block's threads run one parallel part after another, and what blocks do together.
//
// A kernel body is a template over Block: "parallel part; sync; parallel part". On the device a part is a strided
// loop of each thread; on the host it is a loop over all threads, so that scans, ranking and tickets really run as
// they do on the device, with any number of threads.
#pragma once

#include "platform.cuh"

#ifndef __CUDACC__
#include <cstdio>
#include <cstdlib>
#endif

namespace himar {

#ifdef __CUDACC__

class DeviceBlock {
public:
    HIMAR_FN u32 index() const { return blockIdx.x; }
    HIMAR_FN u32 count() const { return gridDim.x; }
    HIMAR_FN u32 threads() const { return blockDim.x; }
    HIMAR_FN void sync() { __syncthreads(); }

    // part(i) for 0 ≤ i < n, shared among this block's threads; thread t always takes t, t + threads, …
    template <class Part>
    HIMAR_FN void for_each(u32 n, Part part) {
        for (u32 i = threadIdx.x; i < n; i += blockDim.x) part(i);
    }

    // part(i) for 0 ≤ i < n, shared among the threads of all blocks.
    template <class Part>
    HIMAR_FN void for_each_in_grid(u64 n, Part part) {
        const u64 stride = static_cast<u64>(gridDim.x) * blockDim.x;
        for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) part(i);
    }

    template <class Part>
    HIMAR_FN void once(Part part) {
        if (threadIdx.x == 0) part();
    }
};

#else

// One block on the host. HIMAR_BACKWARDS runs its threads from the last to the first: a result that depends on the
// order of threads then differs. Two parts without a sync() between them end the program: on the device they overlap.
class HostBlock {
public:
    HostBlock(u32 index, u32 count, u32 threads) : index_(index), count_(count), threads_(threads) {}

    u32 index() const { return index_; }
    u32 count() const { return count_; }
    u32 threads() const { return threads_; }
    void sync() { part_ran_ = false; }

    template <class Part>
    void for_each(u32 n, Part part) {
        start_part();
        for (u32 turn = 0; turn < threads_; ++turn)
            for (u64 i = thread_at(turn); i < n; i += threads_) part(static_cast<u32>(i));
    }

    template <class Part>
    void for_each_in_grid(u64 n, Part part) {
        start_part();
        const u64 first = static_cast<u64>(index_) * threads_, stride = static_cast<u64>(count_) * threads_;
        for (u32 turn = 0; turn < threads_; ++turn)
            for (u64 i = first + thread_at(turn); i < n; i += stride) part(i);
    }

    template <class Part>
    void once(Part part) {
        start_part();
        part();
    }

private:
    u32 thread_at(u32 turn) const {
#ifdef HIMAR_BACKWARDS
        return threads_ - 1 - turn;
#else
        return turn;
#endif
    }

    void start_part() {
        if (part_ran_) {
            std::fputs("himar: two parallel parts of a kernel without sync() between them\n", stderr);
            std::abort();
        }
        part_ran_ = true;
    }

    u32 index_, count_, threads_;
    bool part_ran_ = false;
};

#endif

// Adds up shared[0 … threads) so that entry t becomes the sum of entries 0 … t (Hillis and Steele).
// `shared` has room for 2·threads words; returns the half that holds the sums. Starts and ends with a sync.
template <class Block>
HIMAR_FN const u32* inclusive_sums(Block& block, u32* shared) {
    const u32 threads = block.threads();
    u32 *from = shared, *to = shared + threads;
    block.sync();
    for (u32 distance = 1; distance < threads; distance *= 2) {
        block.for_each(threads, [&](u32 t) { to[t] = from[t] + (t >= distance ? from[t - distance] : 0); });
        block.sync();
        u32* const sums = to;
        to = from;
        from = sums;
    }
    return from;
}

// True in the one block that finishes last: all blocks have then read what they needed and written what they had.
// `tickets` is 0 before the launch; the last block has to put it back to 0. `shared` is one word.
template <class Block>
HIMAR_FN bool is_last_block(Block& block, u32* tickets, u32* shared) {
    fence();
    block.sync();
    block.once([&] { *shared = take_ticket(tickets) == block.count() - 1; });
    block.sync();
    return *shared != 0;
}

}  // namespace himar
