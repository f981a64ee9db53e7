// Counter-based draws: Philox4x32-10 words, sorting keys and normals, as himar_kernels/arithmetic/draws.py has them.
//
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include "platform.cuh"

namespace himar {

struct Words {
    u32 word[4];
};

// Where the draws of an image come from. Every image of a batch has its own, so that images of several requests run
// together, each as it is alone.
struct ImageOrigin {
    u64 seed;
    u32 index;  // of the image in its request
    u32 pad;
};
static_assert(sizeof(ImageOrigin) == 16, "Python's IMAGE_ORIGIN has 16 bytes");

// The four words at counter (c0, c1, c2, c3) under the key `seed`.
HIMAR_FN Words philox(u32 c0, u32 c1, u32 c2, u32 c3, u64 seed) {
    u32 key0 = static_cast<u32>(seed), key1 = static_cast<u32>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const u32 high0 = high_word_of_product(c0, 0xD2511F53u), low0 = c0 * 0xD2511F53u;
        const u32 high1 = high_word_of_product(c2, 0xCD9E8D57u), low1 = c2 * 0xCD9E8D57u;
        c0 = high1 ^ c1 ^ key0;
        c1 = low1;
        c2 = high0 ^ c3 ^ key1;
        c3 = low0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// What an image's positions are sorted by to give its order; ties go by position.
HIMAR_FN u32 order_key(const ImageOrigin& origin, u32 phase, u32 position) {
    return philox(position << 16, 0, origin.index, phase | 1u << 8, origin.seed).word[0];
}

// In place of k for the noise that a chain starts from.
constexpr u32 kInitialNoise = 0xFFFFu;

// Standard normals of channels 4·quad … 4·quad+3 by Box-Muller in double, rounded to float.
HIMAR_FN Quad normals(const ImageOrigin& origin, u32 phase, u32 step, u32 k, u32 position, u32 quad) {
    const Words random = philox(position << 16 | quad, step << 16 | k, origin.index, phase, origin.seed);
    constexpr double unit = 1.0 / 16777216.0;  // 2^-24
    Quad drawn;
    for (int pair = 0; pair < 2; ++pair) {
        const double u1 = ((random.word[2 * pair] >> 8) + 1.0) * unit;
        const double u2 = (random.word[2 * pair + 1] >> 8) * unit;
        const double radius = sqrt_double(-2.0 * log_double(u1));
        double cosine, sine;
        cosine_and_sine(u2, cosine, sine);
        drawn.value[2 * pair] = static_cast<float>(radius * cosine);
        drawn.value[2 * pair + 1] = static_cast<float>(radius * sine);
    }
    return drawn;
}

}  // namespace himar
