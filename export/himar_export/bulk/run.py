"""Describes a bulk run: which images, how, and in which parts. All that decides a pixel is here, and is plain data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from himar_kernels import InputError
from himar_runtime.families.family import Sampling
from himar_runtime.request import image_indices

Output = Literal["png", "latents", "pixels"]
"""A PNG for each image; or arrays: latents, or pixels in ADM's layout."""

ARRAYS = "arrays.npz"
"""The one file of a part that is not of PNGs."""


@dataclass(frozen=True)
class BulkRun:
    """What to make. An image depends on its seed, its index and what it shows only, never on its part.

    Image i shows the i // count-th of the labels or prompts, and has index i: the numbering of a run on one machine.

    Attributes:
        bundle: its absolute path, the same on every machine.
        bundle_id: SHA-256 of its manifest.
        himar_version: of the command that asks, which workers have to have as well.
        labels: class numbers; None of prompts.
        prompts: texts; None of labels.
        count: images of each of them.
        seed: 0 … 2^64-1, of all images.
        sampling: the settings, complete.
        output: what becomes of an image.
        chunk: images of one part.
    """

    bundle: Path
    bundle_id: str
    himar_version: str
    labels: tuple[int, ...] | None
    prompts: tuple[str, ...] | None
    count: int
    seed: int
    sampling: Sampling
    output: Output
    chunk: int

    def __post_init__(self) -> None:
        if (self.labels is None) == (self.prompts is None):
            raise InputError("a run is of labels or of prompts; give one of the two.")
        image_indices(self.images, 0)

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.labels or self.prompts or ()) * self.count

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-self.images // self.chunk)

    def indices(self, part: int) -> range:
        """Image indices of a part."""
        return range(part * self.chunk, min((part + 1) * self.chunk, self.images))

    def shown(self, indices: range) -> dict[str, Any]:
        """Return the labels or prompts of images, as the argument of `Pipeline.generate`."""
        if self.labels is not None:
            return {"labels": [self.labels[index // self.count] for index in indices]}
        assert self.prompts is not None
        return {"prompts": [self.prompts[index // self.count] for index in indices]}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that tell this run from others; labels and prompts by their SHA-256."""
        return {
            "bundle": self.bundle_id,
            "himar_version": self.himar_version,
            "labels": _sha256(self.labels),
            "prompts": _sha256(self.prompts),
            "count": self.count,
            "seed": self.seed,
            "sampling": self.sampling.to_dict(),
            "output": self.output,
            "chunk": self.chunk,
        }


def _sha256(values: tuple[Any, ...] | None) -> str | None:
    return None if values is None else hashlib.sha256(json.dumps(values).encode()).hexdigest()
