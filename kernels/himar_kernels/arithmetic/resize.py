"""Resizes pixels bicubically, without aliasing, in whole numbers: every language computes the same.

The filter is that of PyTorch's `interpolate(mode="bicubic", antialias=True)` and of Pillow, a cubic with a = -1/2 that
is stretched where an image shrinks; training makes its low-resolution images by it (docs/model.md §8).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNIT = 1 << 20
"""What the weights of a pixel add up to."""


def cubic_weights(given: int, wanted: int) -> NDArray[np.int64]:
    """Return the weights int64 (wanted, given) that make a row of `wanted` pixels of one of `given`.

    With q = 2·max(given, wanted), pixel j of a row lies u/q of the filter's unit from pixel i of the new one, where
    u = (2j+1)·wanted - (2i+1)·given. The cubic is (3u³ - 5u²q + 2q³) / 2q³ for |u| < q and (-u³ + 5u²q - 8uq² + 4q³) /
    2q³ for |u| < 2q; a row of its numerators is scaled to UNIT, rounded down, and what is missing added to the largest,
    the first of several.
    """
    q = 2 * max(given, wanted)
    new, old = np.arange(wanted, dtype=np.int64)[:, None], np.arange(given, dtype=np.int64)
    u = np.abs((2 * old + 1) * wanted - (2 * new + 1) * given)
    near = 3 * u**3 - 5 * u**2 * q + 2 * q**3
    far = -(u**3) + 5 * u**2 * q - 8 * u * q**2 + 4 * q**3
    numerators = np.where(u < q, near, np.where(u < 2 * q, far, 0))
    weights = numerators * UNIT // numerators.sum(axis=1, keepdims=True)
    weights[np.arange(wanted), weights.argmax(axis=1)] += UNIT - weights.sum(axis=1)
    return weights


def resized_values(pixels: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Return images float32 (B, 3, side, side) in [-1, 1] of RGB pixels uint8 (B, P, P, 3), as `to_values` has them.

    Rows are resized, then columns, both without rounding; sums are clipped to 0 … 255·UNIT², then times 2/(255·UNIT²)
    less 1 in float64, and rounded to float32. From training's resizing of floats they differ by at most 1e-5.
    """
    # All sums are whole numbers below 2^53, which float64's matmuls add exactly in whatever order.
    weights = cubic_weights(pixels.shape[1], side).astype(np.float64)
    sums = weights @ pixels.transpose(0, 3, 1, 2).astype(np.float64) @ weights.T
    most = float(255 * UNIT**2)
    values: NDArray[np.float32] = (np.clip(sums, 0, most) * 2 / most - 1).astype(np.float32)
    return values
