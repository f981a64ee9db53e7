// The memory that a bundle's engines and runs of them take, from what its build measured. The arithmetic is that of
// himar_runtime/memory/prediction.py, which says what the manifest's key `memory` holds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bundle/manifest.h"

namespace himar::core {

// What a build found of a component: bytes once loaded, and what runs of `images` images added.
struct Measured {
    std::int64_t loaded;
    std::vector<std::int64_t> images, runs;  // images: rising; runs: one for each
    std::int64_t most;                       // images of the largest call, beyond which a run takes no more

    // The bytes that runs of so many images add, never less than those of fewer.
    double run(std::int64_t count) const;
};

// Bytes that `lanes` lanes take which run `images` images at once, the process itself and its libraries left out: whole
// numbers, exact below 2^53.
struct Prediction {
    std::int64_t images, lanes;
    double loaded = 0;  // by all engines that are loaded at once, and on a GPU what libraries take once; lanes share it
    double runs = 0;    // by the runs of all lanes, with their loops' buffers on a GPU

    double total() const { return loaded + runs; }
};

// Predict what a bundle takes. images: more than max_batch are run in parts; backend: what runs the engines, "" for what the
// bundle was built for. BundleError where the manifest's figures are not what they must be.
Prediction predict(const Manifest& manifest, std::int64_t images, std::int64_t lanes, bool is_gpu, const std::string& backend);

}  // namespace himar::core
