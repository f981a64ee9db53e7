"""Makes the row indices that the transformer graphs gather by, from which positions are known.

Masking never enters a graph as booleans: the counts follow from the schedule, so the host makes index lists
of a known shape and the graphs only gather rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from himar_kernels.shared.errors import InputError

from .schedule import Step


@dataclass(frozen=True)
class IndexLists:
    """Row indices of one transformer run with R rows, K context tokens, P embedded and L decoded positions.

    Attributes:
        visible: int64 (R, K+V), what the encoder sees: rows of the flattened (R·(K+P)) embedded sequence,
            context first, then the V known positions ascending.
        sources: int64 (R, K+L), where each decoder row comes from: rows of a table that holds the flattened
            encoder output (R·(K+V)) and after it the L mask tokens.
    """

    visible: NDArray[np.int64]
    sources: NDArray[np.int64]


def revealed_positions(order: NDArray[np.int64], step: Step) -> NDArray[np.int64]:
    """Return the positions that `step` reveals, ascending per image: int64 (B, r) from orders (B, n)."""
    return np.sort(order[:, step.masked - step.revealed : step.masked], axis=1)


def known_positions(order: NDArray[np.int64], masked: int) -> NDArray[np.bool_]:
    """Return bool (B, n): True where a position is visible, that is not among `order[:, :masked]`."""
    known = np.ones(order.shape, dtype=np.bool_)
    np.put_along_axis(known, order[:, :masked], False, axis=1)
    return known


def index_lists(known: NDArray[np.bool_], context: int, positions: int) -> IndexLists:
    """Turn known positions into the gather indices of `IndexLists`.

    Args:
        known: bool (R, P), True = visible. Phase low embeds P = S positions; phase high P = S + N, of which
            the S low ones are always known. Every row must know the same number of positions.
        context: K, context tokens before the positions.
        positions: L ≥ P, positions the decoder predicts; those from P on are masked.

    Raises InputError when rows know different numbers of positions, or P > L.
    """
    rows, embedded = known.shape
    if embedded > positions:
        raise InputError(f"{embedded} positions are embedded, but the decoder predicts only {positions}.")
    counts = np.count_nonzero(known, axis=1)
    if rows and np.any(counts != counts[0]):
        raise InputError(
            f"rows know {counts.min()} to {counts.max()} positions; every row of a run must know the same number."
        )
    encoded = context + (int(counts[0]) if rows else 0)
    row = np.arange(rows, dtype=np.int64)[:, None]

    visible = np.empty((rows, encoded), dtype=np.int64)
    visible[:, :context] = np.arange(context)
    visible[:, context:] = np.nonzero(known)[1].reshape(rows, -1) + context
    visible += row * (context + embedded)

    encoder_slot = row * encoded + context + np.cumsum(known, axis=1) - 1
    mask_token = rows * encoded + np.arange(positions)
    sources = np.empty((rows, context + positions), dtype=np.int64)
    sources[:, :context] = row * encoded + np.arange(context)
    sources[:, context : context + embedded] = np.where(known, encoder_slot, mask_token[:embedded])
    sources[:, context + embedded :] = mask_token[embedded:]
    return IndexLists(visible, sources)
