// From tokens to latents, and from the decoder's images to 8-bit pixels.
#pragma once

#include "block.cuh"
#include "state.cuh"

namespace himar {

// latents (B, C, n) of row-major tokens (B, n, C), the VAE scale taken away.
template <class Block>
HIMAR_FN void latents(Block& block, u32*, float* latents, const float* tokens, float vae_scale, u32 batch, u32 n,
                      u32 channels) {
    block.for_each_in_grid(static_cast<u64>(batch) * channels * n, [&](u64 item) {
        const u32 i = static_cast<u32>(item);
        const u32 position = i % n, channel = i / n % channels, image = i / n / channels;
        latents[i] = tokens[(static_cast<u64>(image) * n + position) * channels + channel] / vae_scale;
    });
}

// (x + 1)·127.5 of x clipped to [-1, 1], rounded half to even. NaN becomes 0; the fault word tells.
HIMAR_FN u8 pixel_of(float value) {
    const float clipped = value < -1.0f ? -1.0f : (value > 1.0f ? 1.0f : value);
    const float scaled = round_to_even((clipped + 1.0f) * 127.5f);
    return scaled >= 0.0f ? static_cast<u8>(scaled) : 0;
}

// pixels uint8 (B, H·W, 3) of images (B, 3, H·W) in [-1, 1]; a value that is not finite is a fault of vae_decoder.
// One thread packs four neighbouring pixels: three wide loads, twelve bytes.
template <class Block>
HIMAR_FN void pack(Block& block, u32*, u8* pixels, const float* images, u32* fault, u32 batch, u32 area) {
    const bool wide = rows_are_wide(area, images) && reinterpret_cast<u64>(pixels) % 4 == 0;
    const u32 quads = (area + 3) / 4;
    block.for_each_in_grid(static_cast<u64>(batch) * quads, [&](u64 item) {
        const u64 image = static_cast<u32>(item) / quads;
        const u32 first = static_cast<u32>(item) % quads * 4, count = area - first;
        u8* const to = pixels + (image * area + first) * 3;
        u8 packed[12];
        for (u32 color = 0; color < 3; ++color) {
            const Quad four = load_quad(images + (image * 3 + color) * area + first, count, wide);
            if (!all_finite(four)) note_fault(fault, kVaeDecoder, 0);
            for (u32 lane = 0; lane < 4; ++lane) packed[3 * lane + color] = pixel_of(four.value[lane]);
        }
        if (wide) {
            for (u32 word = 0; word < 3; ++word) {
                const u8* const four = packed + 4 * word;
                reinterpret_cast<u32*>(to)[word] = static_cast<u32>(four[0]) | static_cast<u32>(four[1]) << 8 |
                                                   static_cast<u32>(four[2]) << 16 | static_cast<u32>(four[3]) << 24;
            }
        } else {
            for (u32 byte = 0; byte < 12; ++byte)
                if (byte < 3 * count) to[byte] = packed[byte];
        }
    });
}

}  // namespace himar
