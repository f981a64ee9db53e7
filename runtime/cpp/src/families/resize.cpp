#include "families/resize.h"

#include <algorithm>
#include <cstdlib>

namespace himar::core {
namespace {

// Numerators of large images times the unit do not fit 64 bits.
__extension__ using Wide = __int128;

// floor(numerator · unit / sum) of a positive sum.
std::int64_t scaled(std::int64_t numerator, std::int64_t sum) {
    const Wide product = static_cast<Wide>(numerator) * kResizeUnit;
    const Wide quotient = product / sum;
    return static_cast<std::int64_t>(quotient - (product % sum < 0 ? 1 : 0));
}

// The cubic at u/q of its unit, times 2q³.
std::int64_t cubic(std::int64_t u, std::int64_t q) {
    if (u < q) return 3 * u * u * u - 5 * u * u * q + 2 * q * q * q;
    return u < 2 * q ? -u * u * u + 5 * u * u * q - 8 * u * q * q + 4 * q * q * q : 0;
}

}  // namespace

std::vector<std::int64_t> cubic_weights(std::int64_t given, std::int64_t wanted) {
    const std::int64_t q = 2 * std::max(given, wanted);
    std::vector<std::int64_t> weights;
    weights.reserve(static_cast<std::size_t>(given * wanted));
    for (std::int64_t i = 0; i < wanted; ++i) {
        std::int64_t sum = 0, left = kResizeUnit;
        const auto first = weights.size();
        for (std::int64_t j = 0; j < given; ++j) {
            weights.push_back(cubic(std::abs((2 * j + 1) * wanted - (2 * i + 1) * given), q));
            sum += weights.back();
        }
        const auto row = weights.begin() + static_cast<std::ptrdiff_t>(first);
        std::for_each(row, weights.end(), [&](std::int64_t& weight) {
            weight = scaled(weight, sum);
            left -= weight;
        });
        *std::max_element(row, weights.end()) += left;
    }
    return weights;
}

void write_resized(const std::uint8_t* pixels, std::int64_t given, std::int64_t side, float* values) {
    const std::vector<std::int64_t> weights = cubic_weights(given, side);
    const double most = 255.0 * kResizeUnit * kResizeUnit;
    std::vector<std::int64_t> rows(static_cast<std::size_t>(given));  // of one new row, each old column
    for (std::int64_t color = 0; color < 3; ++color)
        for (std::int64_t y = 0; y < side; ++y) {
            std::fill(rows.begin(), rows.end(), 0);
            for (std::int64_t j = 0; j < given; ++j) {
                const std::int64_t weight = weights[static_cast<std::size_t>(y * given + j)];
                if (weight == 0) continue;
                for (std::int64_t x = 0; x < given; ++x)
                    rows[static_cast<std::size_t>(x)] += weight * pixels[3 * (j * given + x) + color];
            }
            for (std::int64_t x = 0; x < side; ++x) {
                std::int64_t sum = 0;  // below 2^53, so a double holds it
                for (std::int64_t i = 0; i < given; ++i)
                    sum += weights[static_cast<std::size_t>(x * given + i)] * rows[static_cast<std::size_t>(i)];
                *values++ = static_cast<float>(std::clamp(static_cast<double>(sum), 0.0, most) * 2 / most - 1);
            }
        }
}

}  // namespace himar::core
