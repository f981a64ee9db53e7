// A seed's own draws as a caller would give them: what comes out must be what the seed alone gives.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "himar/himar.hpp"
#include "queue/host/queue.h"

class SeedDraws : public himar::Draws {
public:
    explicit SeedDraws(std::uint64_t seed) : seed_(seed) {}

    void order(const himar_order_request& request, std::int64_t* order) override {
        CHECK(request.struct_size == sizeof request);
        const auto n = static_cast<himar::u32>(request.positions), batch = static_cast<himar::u32>(request.batch);
        std::vector<himar::u32> ranks(batch * n);
        std::vector<himar::ImageOrigin> origins;
        for (std::size_t image = 0; image < batch; ++image) origins.push_back({seed_, request.images[image], 0});
        himar::core::run_on_host(
            himar::core::launches::ranks(ranks.data(), origins.data(), code_of(request.stage_name), batch, n));
        for (std::size_t image = 0; image < batch; ++image)
            for (himar::u32 position = 0; position < n; ++position)
                order[image * n + ranks[image * n + position]] = position;
    }

    void noise(const himar_noise_request& request, float* noise) override {
        CHECK(request.struct_size == sizeof request);
        const himar::u32 k = request.k < 0 ? himar::kInitialNoise : static_cast<himar::u32>(request.k);
        for (std::int64_t image = 0; image < request.batch; ++image)
            for (std::int64_t place = 0; place < request.position_count; ++place)
                for (std::int64_t channel = 0; channel < request.channels; ++channel) {
                    const himar::u32 position = request.positions[image * request.position_count + place];
                    const himar::Quad quad = himar::normals(
                        {seed_, request.images[image], 0}, code_of(request.stage_name),
                        static_cast<himar::u32>(request.step), k, position, static_cast<himar::u32>(channel / 4));
                    *noise++ = quad.value[channel % 4];
                }
        ++asked;
    }

    int asked = 0;

private:
    // As the kernels count phases.
    static himar::u32 code_of(const char* stage) { return std::string(stage) == "low" ? 0 : 1; }

    std::uint64_t seed_;
};

// The same through the C interface alone.
inline himar_draws c_draws(SeedDraws& draws) {
    himar_draws given{};
    given.struct_size = sizeof given;
    given.user = &draws;
    given.order = [](const himar_order_request* request, std::int64_t* order, void* user) {
        static_cast<SeedDraws*>(user)->order(*request, order);
        return 1;
    };
    given.noise = [](const himar_noise_request* request, float* noise, void* user) {
        static_cast<SeedDraws*>(user)->noise(*request, noise);
        return 1;
    };
    return given;
}
