#!/bin/sh
# Polygraphy 0.53.6: an integer input of shape (1,), such as a timestep, is fed 1 whatever range was given for it, once
# its shape is given too.
# Expected: DataLoader(val_range={"timestep": (500, 999)}) feeds values from 500 to 999.
# Seen: with input_metadata that names the shape (1,), it feeds [1], with a line at the level INFO ("Assuming timestep
#   is a shape tensor"); without that metadata the range holds. So a comparison of two engines that was meant to cover
#   all timesteps covers one of them.
# Way round: leave inputs of a fixed shape out of input_metadata.
# Exits 0 while this is so, 1 once it changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet polygraphy==0.53.6 numpy==2.3.5
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
from polygraphy.common import TensorMetadata
from polygraphy.comparator import DataLoader


def fed(given: TensorMetadata) -> list[int]:
    loader = DataLoader(seed=1, iterations=4, input_metadata=given, val_range={"timestep": (500, 999)})
    loader.input_metadata = TensorMetadata().add("timestep", np.dtype(np.int64), (1,))  # as a runner sets it
    return [int(feed["timestep"][0]) for feed in loader]


with_shape = fed(TensorMetadata().add("timestep", np.dtype(np.int64), (1,)))
without = fed(TensorMetadata())
print(f"asked for 500 to 999; fed {with_shape} with the shape given, {without} without")
sys.exit(0 if set(with_shape) == {1} and min(without) >= 500 else 1)
PYTHON
