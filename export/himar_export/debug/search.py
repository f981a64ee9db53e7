"""Searches the layers that must stay in float32 for a component to meet a limit, by computing mixtures of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

Measure = Callable[[Collection[str]], float]
"""The largest relative error of a component's outputs with these layers in float32."""


@dataclass(frozen=True)
class Found:
    """What must stay in float32.

    Attributes:
        layers: few layers, in the order of the component, without any one of which the limit is missed; empty where all
            can be in half precision, None where the limit is missed even with all of them in float32.
        error: with those in float32; with all in float32 where `layers` is None.
        trials: mixtures that were computed.
    """

    layers: tuple[str, ...] | None
    error: float
    trials: int


def search(names: Sequence[str], suspicion: Callable[[str], float], measure: Measure, limit: float) -> Found:
    """Return layers to keep in float32 for an error within `limit`.

    The most suspect layers that are enough come first, by bisection; then those go that are not needed, in halves, then
    one by one. Errors of layers add up and cancel, so there may be a smaller set that is never tried.

    Args:
        names: of all layers that can be kept, in the component's order.
        suspicion: a layer's own error, or infinity.
    """
    errors: dict[frozenset[str], float] = {}

    def error(kept: Collection[str]) -> float:
        key = frozenset(kept)
        if key not in errors:
            errors[key] = measure(key)
        return errors[key]

    def passes(kept: Collection[str]) -> bool:
        return error(kept) <= limit  # not-a-number never does

    if passes(()):
        return Found((), error(()), len(errors))
    if not passes(names):
        return Found(None, error(names), len(errors))
    ranked = sorted(names, key=lambda name: -_sortable(suspicion(name)))
    low, high = 0, len(ranked)  # `low` of them are too few, `high` are enough
    while high - low > 1:
        middle = _between(low, high)
        low, high = (low, middle) if passes(ranked[:middle]) else (middle, high)
    kept = ranked[:high]
    size = len(kept) // 2
    while size:
        for start in range(len(kept) - size, -1, -size):  # the least suspect first
            fewer = [*kept[:start], *kept[start + size :]]
            if fewer and passes(fewer):
                kept = fewer
        size //= 2
    return Found(tuple(name for name in names if name in kept), error(kept), len(errors))


def _between(low: int, high: int) -> int:
    """The middle by factors: a few layers are the rule, and many the exception."""
    return min(high - 1, max(low + 1, round(math.sqrt(max(low, 1) * high))))


def _sortable(value: float) -> float:
    return math.inf if math.isnan(value) else value
