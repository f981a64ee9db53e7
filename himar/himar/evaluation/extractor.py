"""Defines what a feature extractor is, and runs one over many images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from himar_kernels import InputError

OnImages = Callable[[int, int], None]


@dataclass(frozen=True)
class Features:
    """Of n images, float32: pool (n, D), spatial (n, E), and class probabilities (n, K)."""

    pool: NDArray[np.float32]
    spatial: NDArray[np.float32]
    probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.pool)


class Extractor(Protocol):
    """Turns images into features. Everything that is measured depends on it, so it carries a name and a hash."""

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def sha256(self) -> str:
        """Of the file of its weights."""

    def __call__(self, images: NDArray[np.uint8]) -> Features:
        """Images (m, H, W, 3) uint8 RGB -> their features. Raises InputError for images it cannot take."""


def extract(
    extractor: Extractor, batches: Iterable[NDArray[np.uint8]], count: int, on_images: OnImages | None = None
) -> Features:
    """Run the extractor over batches of `count` images in all; `on_images` gets (done, count).

    Raises InputError when a feature is not finite, naming the first image (from 0) that has one.
    """
    parts: list[Features] = []
    done = 0
    for batch in batches:
        part = extractor(batch)
        for name in ("pool", "spatial", "probabilities"):
            broken = ~np.isfinite(getattr(part, name)).all(axis=1)
            if broken.any():
                raise InputError(
                    f"the {name} features of image {done + int(broken.argmax())} are not finite; the weights of "
                    f"{extractor.name} are damaged or its precision too low."
                )
        parts.append(part)
        done += len(batch)
        if on_images:
            on_images(done, count)
    names = ("pool", "spatial", "probabilities")
    return Features(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
