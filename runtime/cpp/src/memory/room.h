// Refuses to load what clearly has no room, in a sentence that says what is needed and what to do: those of
// himar_runtime/memory/room.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "bundle/bundle.h"
#include "engines/networks.h"

namespace himar::core {

// EngineError unless there is room for a bundle's engines and for lanes that run so many images at once; without a number of
// images, which nobody knows then, for one, and where there is no room for the bundle's largest batch, a warning says so. One
// says also where it is tight. What is not known, of the bundle or of the machine, refuses nothing. InputError where an
// environment variable that asks for something else is wrong.
void require_room(const Bundle& bundle, const LoadRequest& request, std::optional<std::int64_t> images, std::int64_t lanes,
                  const std::filesystem::path& root = "/");

// EngineError unless there is room for the runs of one more lane, of an image at once: it shares weights.
void require_room_for_lane(const Bundle& bundle, const LoadRequest& request, const std::filesystem::path& root = "/");

// The largest batch, at most the bundle's, that lanes have room to run without being tight; at least 1. Where it is smaller
// than the bundle's, a warning says so. InputError as require_room.
std::int64_t fitting_batch(const Bundle& bundle, const LoadRequest& request, std::int64_t lanes,
                           const std::filesystem::path& root = "/");

}  // namespace himar::core
