#include "families/hmar/scales.h"

#include <algorithm>
#include <cmath>

namespace himar::core::hmar {
namespace {

double cubic(double distance) {
    constexpr double a = -0.75;
    if (distance <= 1) return ((a + 2) * distance - (a + 3)) * (distance * distance) + 1;
    return ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a;
}

std::vector<float> in_float(const std::vector<double>& values) { return {values.begin(), values.end()}; }

std::size_t place(std::int64_t row, std::int64_t column, std::int64_t columns) {
    return static_cast<std::size_t>(row * columns + column);
}

}  // namespace

std::int64_t Scales::start(std::size_t scale) const {
    std::int64_t sum = 0;
    for (std::size_t before = 0; before < scale; ++before) sum += cells(before);
    return sum;
}

std::uint32_t Scales::convolution(std::size_t scale) const {
    const std::size_t last = count() - 1;
    return (9 * scale >= 2 * last ? 1 : 0) + (2 * scale >= last ? 1 : 0) + (9 * scale >= 7 * last ? 1 : 0);
}

std::vector<float> Scales::down(std::size_t scale) const {
    const std::int64_t p = sides[scale], H = side();
    std::vector<double> matrix(static_cast<std::size_t>(p * H));
    for (std::int64_t row = 0; row < p; ++row) {
        const std::int64_t first = row * H / p, end = ((row + 1) * H + p - 1) / p;
        for (std::int64_t column = first; column < end; ++column)
            matrix[place(row, column, H)] = 1 / static_cast<double>(end - first);
    }
    return in_float(matrix);
}

std::vector<float> Scales::up(std::size_t scale) const {
    const std::int64_t p = sides[scale], H = side();
    std::vector<double> matrix(static_cast<std::size_t>(p * H));
    for (std::int64_t row = 0; row < H; ++row) {
        const double source = (static_cast<double>(row) + 0.5) * static_cast<double>(p) / static_cast<double>(H) - 0.5;
        const auto first = static_cast<std::int64_t>(std::floor(source));
        for (std::int64_t tap = first - 1; tap < first + 3; ++tap)
            matrix[place(row, std::clamp<std::int64_t>(tap, 0, p - 1), p)] +=
                cubic(std::fabs(source - static_cast<double>(tap)));
    }
    return in_float(matrix);
}

}  // namespace himar::core::hmar
