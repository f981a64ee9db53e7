"""Which cells a masked step redraws: the least confident ones (docs/hmar-model.md §5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def least_confident(
    confidence: NDArray[np.float32], count: int | NDArray[np.int64], among: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Return bool (B, T), True at each image's `count` least confident cells.

    Of equal confidences the cell with the lower index counts as less confident. They are real: a filter that leaves one
    code gives exactly 1.

    Args:
        confidence: float32 (B, T).
        count: one for all images, or (B,).
        among: bool (B, T), the cells to choose from; None chooses from all. An image with fewer gets all of them.
    """
    ranked = confidence if among is None else np.where(among, confidence, np.inf)
    order = np.argsort(ranked, axis=1, kind="stable")
    chosen = np.zeros(confidence.shape, np.bool_)
    first = np.arange(confidence.shape[1]) < np.broadcast_to(count, len(confidence))[:, None]
    np.put_along_axis(chosen, order, first, axis=1)
    return chosen if among is None else chosen & among
