"""What never changes on a lane: the codebook, the maps between scales, the places of every scale's cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from himar_kernels.families.hmar import Codebook, Scales
from himar_runtime.queue.device import ResidentDevice, allocate_together


@dataclass(frozen=True)
class Constants:
    """Addresses; tuples have one for each scale."""

    embedding: int  # float32 (V, Cv)
    weights: int  # float32 (4, Cv, Cv, 3, 3), Φ's convolutions
    biases: int  # float32 (4, Cv)
    cells: tuple[int, ...]  # int64 (T_s), places among all L
    down: tuple[int, ...]  # float32 (pn_s, H)
    up: tuple[int, ...]  # float32 (H, pn_s)

    @classmethod
    def upload(cls, device: ResidentDevice, book: Codebook, scales: Scales) -> Constants:
        """Queue the upload of everything."""
        arrays = {"embedding": book.embedding, "weights": book.weights, "biases": book.biases}
        for scale in range(len(scales)):
            span = scales.span(scale)
            arrays[f"cells {scale}"] = np.arange(span.start, span.stop, dtype=np.int64)
            arrays[f"down {scale}"] = scales.down(scale)
            arrays[f"up {scale}"] = scales.up(scale)
        found = allocate_together(device, {name: array.nbytes for name, array in arrays.items()})
        for name, array in arrays.items():
            device.upload(found[name], array)
        cells, down, up = (
            tuple(found[f"{name} {scale}"] for scale in range(len(scales))) for name in ("cells", "down", "up")
        )
        return cls(found["embedding"], found["weights"], found["biases"], cells, down, up)
