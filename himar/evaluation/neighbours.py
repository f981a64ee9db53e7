"""Improved precision and recall (Kynkäänniemi et al. 2019): k-nearest-neighbour balls around features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himar_kernels import InputError

from .extractor import OnImages

NEIGHBOURS = 3
_ROWS = 1024
# Features are float32: squared distances below this share of the squared lengths are rounding, so the points are one.
_SAME = 1e-12


def precision_recall(
    real: NDArray[np.floating],
    generated: NDArray[np.floating],
    k: int = NEIGHBOURS,
    device: str = "cpu",
    on_rows: OnImages | None = None,
) -> tuple[float, float]:
    """Return the share of generated features within the real ones' balls, and of real ones within the generated ones'.

    real (n, D), generated (m, D). A ball reaches from its feature to the k-th nearest other one of the same set, border
    included. Distances are computed in float64, on `device`; `on_rows` gets (rows of distances done, all).
    Raises InputError when a set has no k others, or sizes differ.
    """
    for name, features in (("reference", real), ("measured", generated)):
        if k < 1 or k >= len(features):
            raise InputError(
                f"k is {k}, but the {name} set has {len(features)} images; k must be 1 to {len(features) - 1}."
            )
    if real.shape[1] != generated.shape[1]:
        raise InputError(
            f"one set has features of {real.shape[1]} dimensions and the other of {generated.shape[1]}; "
            f"both must come from the same extractor."
        )
    ours, theirs = (torch.from_numpy(part).to(device, torch.float64) for part in (generated, real))
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        if on_rows:
            on_rows(done, 2 * (len(ours) + len(theirs)))

    precision = _covered(ours, theirs, _radii(theirs, k, count), count)
    return precision, _covered(theirs, ours, _radii(ours, k, count), count)


def _radii(features: Tensor, k: int, count: Callable[[int], None]) -> Tensor:
    """Squared distance (n,) of each feature to its k-th nearest other one."""
    radii = []
    for first in range(0, len(features), _ROWS):
        distances = _squared_distances(features[first : first + _ROWS], features)
        own = torch.arange(len(distances), device=features.device)
        distances[own, first + own] = torch.inf
        radii.append(distances.kthvalue(k, dim=1).values)
        count(len(distances))
    return torch.cat(radii)


def _covered(points: Tensor, centres: Tensor, radii: Tensor, count: Callable[[int], None]) -> float:
    """Share of points (m, D) that lie in at least one of the balls."""
    inside = 0
    for first in range(0, len(points), _ROWS):
        distances = _squared_distances(points[first : first + _ROWS], centres)
        inside += int((distances <= radii).any(dim=1).sum())
        count(len(distances))
    return inside / len(points)


def _squared_distances(first: Tensor, second: Tensor) -> Tensor:
    lengths = first.square().sum(1)[:, None] + second.square().sum(1)
    distances = lengths - 2 * first @ second.T
    return torch.where(distances < _SAME * lengths, 0, distances)
