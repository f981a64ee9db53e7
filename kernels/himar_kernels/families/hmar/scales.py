"""The scales of a map of codes, coarse to fine, and the constant maps between a scale's grid and the finest one.

docs/hmar-model.md §1 defines the sides and counts, §3 the three maps: area (down), bicubic (up) and which convolution Φ
takes.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels.shared.errors import ConfigError

MOST_SIDE = 256
"""Beyond every model (the largest has 64), and a cell's number fits the draws' 16 bits."""

CONVOLUTIONS = 4
"""Convolutions that the scales share in Φ."""

_CUBIC = -0.75


class Scales:
    """Sides pn_0 … pn_{S-1} of a model's scales and what follows from them. Immutable, equal by its sides.

    Raises ConfigError unless there are two sides or more, whole numbers 1 … 256 that do not shrink.

    Attributes:
        sides: pn_s; the last is H, the side of the latent.
        cells: T_s = pn_s² of each scale.
        starts: place of each scale's first cell among all L; `spans` are the slices.
    """

    def __init__(self, sides: Sequence[int]) -> None:
        self.sides = tuple(_side(side, sides) for side in _listed(sides))
        if len(self.sides) < 2:
            raise ConfigError(f"patch_nums is {_shown(sides)}; a model has at least two scales.")
        if any(after < before for before, after in itertools.pairwise(self.sides)):
            raise ConfigError(f"patch_nums is {_shown(sides)}; sides run from coarse to fine, so none may shrink.")
        self.cells = tuple(side**2 for side in self.sides)
        self.starts = tuple(itertools.accumulate(self.cells[:-1], initial=0))

    def __len__(self) -> int:
        return len(self.sides)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scales) and self.sides == other.sides

    def __hash__(self) -> int:
        return hash(self.sides)

    def __repr__(self) -> str:
        return f"Scales({self.sides})"

    @property
    def side(self) -> int:
        """H, the side of the finest scale and of the latent."""
        return self.sides[-1]

    @property
    def tokens(self) -> int:
        """L, the cells of all scales."""
        return sum(self.cells)

    def span(self, scale: int) -> slice:
        """Return where the cells of a scale stand among all L."""
        return slice(self.starts[scale], self.starts[scale] + self.cells[scale])

    def of_cells(self) -> NDArray[np.int64]:
        """Return the scale of each of the L cells."""
        return np.repeat(np.arange(len(self)), self.cells)

    def convolution(self, scale: int) -> int:
        """Return k, the index of the convolution that Φ takes at a scale.

        It is the one of four at 1/12, 13/36, 23/36 and 11/12 that is nearest to s/(S-1); ties go up. In integers,
        because the ties are real: 2/9 and 7/9 of ten scales, ½ of an odd number.
        """
        last = len(self) - 1
        return int(9 * scale >= 2 * last) + int(2 * scale >= last) + int(9 * scale >= 7 * last)

    def down(self, scale: int) -> NDArray[np.float32]:
        """Return A of a scale, (pn_s, H): `A @ x @ A.T` averages a grid (H, H) down to (pn_s, pn_s)."""
        return area_map(self.sides[scale], self.side)

    def up(self, scale: int) -> NDArray[np.float32]:
        """Return U of a scale, (H, pn_s): `U @ x @ U.T` interpolates a grid (pn_s, pn_s) to (H, H)."""
        return bicubic_map(self.sides[scale], self.side)


@functools.cache
def area_map(side: int, whole: int) -> NDArray[np.float32]:
    """Return float32 (side, whole): row i averages columns ⌊i·H/p⌋ … ⌈(i+1)·H/p⌉-1. Rows overlap if p ∤ H."""
    matrix = np.zeros((side, whole))
    for row in range(side):
        first, end = row * whole // side, -((-(row + 1) * whole) // side)
        matrix[row, first:end] = 1 / (end - first)
    return _constant(matrix)


@functools.cache
def bicubic_map(side: int, whole: int) -> NDArray[np.float32]:
    """Return float32 (whole, side): cubic interpolation with a = -0.75, no antialias, indices clamped at the border."""
    matrix = np.zeros((whole, side))
    for row in range(whole):
        source = (row + 0.5) * side / whole - 0.5
        first = int(np.floor(source))
        for tap in range(first - 1, first + 3):
            matrix[row, min(max(tap, 0), side - 1)] += _cubic(abs(source - tap))
    return _constant(matrix)


def _cubic(distance: float) -> float:
    if distance <= 1:
        return ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    return ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC


def _constant(matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    values = matrix.astype(np.float32)
    values.flags.writeable = False
    return values


def _listed(sides: Any) -> Sequence[Any]:
    if isinstance(sides, str) or not isinstance(sides, Sequence | np.ndarray):
        raise ConfigError(f"patch_nums is {_shown(sides)}; give a list of sides, coarse to fine.")
    return list(sides)


def _side(side: Any, sides: Any) -> int:
    whole = not isinstance(side, bool | np.bool_) and hasattr(side, "__index__")
    if not whole or not 1 <= operator.index(side) <= MOST_SIDE:
        raise ConfigError(f"patch_nums is {_shown(sides)}; every side is a whole number from 1 to {MOST_SIDE}.")
    return operator.index(side)


def _shown(sides: Any) -> str:
    text = repr(list(sides) if isinstance(sides, tuple) else sides)
    return text if len(text) <= 80 else f"{text[:77]}..."
