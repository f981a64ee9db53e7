// Each position's place in its image's order of revealing.
#pragma once

#include "block.cuh"
#include "philox.cuh"

namespace himar {

// Keys held in shared memory at once.
constexpr u32 kRankTile = 4096;

// ranks (B, n): the place of each position in ImageDraws.order, so that order[rank] = position; origins (B).
// One block per image. A rank is the number of keys that come before: counting needs no exchange between threads,
// and beats a sort for the hundreds of positions that models have. Keys pass through shared memory tile by tile.
template <class Block>
HIMAR_FN void ranks(Block& block, u32* keys, u32* ranks, const ImageOrigin* origins, u32 phase, u32 batch, u32 n) {
    for (u32 b = block.index(); b < batch; b += block.count()) {
        const ImageOrigin origin = origins[b];
        u32* const mine = ranks + static_cast<u64>(b) * n;
        for (u32 first = 0; first < n; first += kRankTile) {
            const u32 held = n - first < kRankTile ? n - first : kRankTile;
            block.sync();  // the tile before is read no more
            block.for_each(held, [&](u32 i) { keys[i] = order_key(origin, phase, first + i); });
            block.sync();
            block.for_each(n, [&](u32 position) {
                const bool here = position - first < held;  // wraps to a large number below the tile
                const u32 key = here ? keys[position - first] : order_key(origin, phase, position);
                u32 before = 0;
                for (u32 i = 0; i < held; ++i)
                    before += keys[i] < key || (keys[i] == key && first + i < position);
                mine[position] = first == 0 ? before : mine[position] + before;
            });
        }
    }
}

}  // namespace himar
