"""Editing without training: which cells of each scale are drawn anew, and which codes are kept (docs/editing.md).

An image's codes are kept at every cell that lies outside the mask, and the loop draws the others around them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from himar_kernels.arithmetic.editing import touched_cells, widened
from himar_kernels.shared.errors import InputError

from .sampling import SamplingConfig
from .scales import Scales


@dataclass(frozen=True)
class Kept:
    """What an edit keeps: codes int64 (B, L) of the images; edited: bool (B, L), True at cells that are drawn anew."""

    codes: NDArray[np.int64]
    edited: NDArray[np.bool_]


def edit_cells(masks: NDArray[np.bool_], scales: Scales) -> NDArray[np.bool_]:
    """Return bool (B, L), True at the cells of every scale that an edit draws anew; masks bool (B, 16H, 16H).

    A latent cell is touched if any of its pixels is inside the mask, and a scale's cell if any latent cell that it
    averages is. At fine scales, whose cells are smaller than two of the latent's (2·pn_s > H), one more ring of cells
    around them is drawn: the encoder's convolutions look beyond a cell, so codes beside the hole have seen its filling.
    """
    latent = touched_cells(masks, scales.side)
    parts = []
    for side in scales.sides:
        cells = touched_cells(latent, side)
        parts.append((widened(cells) if 2 * side > scales.side else cells).reshape(len(masks), -1))
    return np.concatenate(parts, axis=1)


def edited_share(count: int, cells: int, edited: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many of each image's edited cells (B,) a count of a scale's `cells` stands for: ⌊count·edited/cells⌋.

    Masked steps redraw that many, so an edit of all cells follows the schedule itself, and a smaller one redraws the
    same proportion of its cells. A count that stands for none ends the scale's steps for that image.
    """
    return count * edited // cells


def edit_sampling(sampling: SamplingConfig, labelled: bool) -> SamplingConfig:
    """Return the settings of an edit: without a class those without guidance, on the unconditional rows alone.

    Raises InputError for a smooth preview, which draws no codes that could lie beside kept ones.
    """
    if sampling.smooth:
        raise InputError("smooth is set, but a smooth preview draws no codes; leave smooth out to edit an image.")
    return sampling if labelled else sampling.with_changes(guidance=0.0)
