"""Judges timings: a ratio with its interval, and every reason to doubt it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .statistics import least_for_interval, median_interval, summarise, trend
from .timing import STABLE_RUNS, STABLE_WITHIN, WarmUp

DRIFT = 0.1
"""A move from the first to the last repetition that is worth a doubt, as a share of the median."""
WIDEST = 0.3
"""The width of an interval beyond which a ratio is not a figure, as a share of it."""
OTHERS = 0.1
"""The share of the cores' time that other processes may have."""


@dataclass(frozen=True)
class Ratio:
    """How many times faster a side is than its baseline.

    value: median over all rounds of baseline seconds by side seconds, both of the same round. low, high: its interval
    of at least 95 % confidence (`median_interval`), None with too few rounds. doubts: why it is inconclusive, empty
    where it is not.
    """

    value: float
    low: float | None
    high: float | None
    doubts: tuple[str, ...]

    @property
    def conclusive(self) -> bool:
        """Whether nothing speaks against the ratio."""
        return not self.doubts


def ratio(baseline: Sequence[float], side: Sequence[float], others: float | None = None) -> Ratio:
    """Return how many times faster `side` is than `baseline`; both hold the seconds of every round, in order.

    others: the share of the cores' time that other processes had meanwhile (`measurement.share_of_others`).
    """
    values = [slow / fast for slow, fast in zip(baseline, side, strict=True)]
    interval = median_interval(values)
    doubts = []
    if interval is None:
        doubts.append(
            f"{len(values)} rounds are too few for an interval of 95 % confidence; {least_for_interval()} are needed"
        )
    elif interval[0] <= 1 <= interval[1]:
        doubts.append(f"the interval {interval[0]:.2f} … {interval[1]:.2f} holds 1")
    value = float(np.median(values))
    if interval is not None and interval[1] - interval[0] > WIDEST * value:
        doubts.append(f"the interval {interval[0]:.2f} … {interval[1]:.2f} is wider than {WIDEST:.0%} of the ratio")
    # A small difference is worth less of a drift: at 1.04 a move of 3 % is most of what was found.
    doubts += _drift(values, "the ratio", min(DRIFT, abs(value - 1) / 2))
    if others is not None and others > OTHERS:
        doubts.append(f"other processes had {others:.0%} of the cores' time")
    low, high = interval or (None, None)
    return Ratio(value, low, high, tuple(doubts))


def doubts_of(seconds: Sequence[float], warm: WarmUp) -> tuple[str, ...]:
    """Return why one side's own figures may not be its usual ones: a drift, a warm-up that did not settle, spread."""
    doubts = _drift(seconds, "it", DRIFT)
    if not warm.stable:
        doubts.append(
            f"its warm-up of {len(warm.seconds)} {'runs' if len(warm.seconds) > 1 else 'run'} did not settle "
            f"({STABLE_RUNS} in a row within {STABLE_WITHIN:.0%})"
        )
    variation = summarise(seconds).variation
    if variation > DRIFT:
        doubts.append(f"its coefficient of variation is {variation:.0%}")
    return tuple(doubts)


def _drift(values: Sequence[float], name: str, least: float) -> list[str]:
    found = trend(values)
    if not found.significant or abs(found.change) < least:
        return []
    return [f"{name} drifted by {found.change:+.0%} from the first round to the last"]
