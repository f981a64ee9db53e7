#include "families/hi_mar/held.h"

#include "error.h"

namespace himar::core::hi_mar {
namespace {

// Values of a row: more have no room anywhere, and their bytes would overflow.
constexpr std::int64_t kMostValues = std::int64_t{1} << 34;

// The shape of a maker's output for one row.
Shape shape_of_row(const ComponentSpec& spec, const TensorSpec& output) {
    Shape shape = {1};
    for (std::size_t axis = 1; axis < output.shape.size() && output.shape.size() == 3; ++axis) {
        const auto* const size = std::get_if<std::int64_t>(&output.shape[axis]);
        if (size == nullptr || *size > kMostValues / shape.count()) break;
        shape.sizes[shape.rank++] = *size;
    }
    if (shape.rank != 3)
        throw BundleError(spec.name + " has no output " + output.name + " (rows, positions, width) of fixed sizes; build the "
                          "bundle again.");
    return shape;
}

}  // namespace

HeldModulations::HeldModulations(Engine& maker, Engine& head, std::int64_t rows, Queue& queue)
    : maker_(&maker), head_(&head), places_(places_of(maker.spec())) {
    block_ = queue.allocate(place_all(nullptr, places_, rows));
    place_all(block_.get(), places_, rows);
}

std::size_t HeldModulations::bytes(const ComponentSpec& maker, std::int64_t rows) {
    std::vector<Place> places = places_of(maker);
    return place_all(nullptr, places, rows);
}

std::vector<Place> HeldModulations::places_of(const ComponentSpec& maker) {
    std::vector<Place> places;
    for (const TensorSpec& output : maker.outputs)
        places.emplace_back(output.name.c_str(), dtype_named(output.dtype), nullptr, shape_of_row(maker, output));
    return places;
}

std::size_t HeldModulations::place_all(void* block, std::vector<Place>& places, std::int64_t rows) {
    Layout layout(block);
    for (Place& place : places) {
        char* address = nullptr;
        layout.take(address, rows * place.shape.count() * static_cast<std::int64_t>(size_of(place.dtype)));
        place.address = address;
    }
    return layout.bytes();
}

std::vector<Place> HeldModulations::with(std::initializer_list<Place> others, std::int64_t rows) const {
    std::vector<Place> all(others);
    all.insert(all.end(), places_.begin(), places_.end());
    for (std::size_t place = others.size(); place < all.size(); ++place) all[place].shape.sizes[0] = rows;
    return all;
}

}  // namespace himar::core::hi_mar
