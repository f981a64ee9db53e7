"""Summarises repeated timings: percentiles, spread, drift, and a distribution-free interval for a median."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
_Z = 1.96  # two-sided 5 % of a normal distribution
_MOST_PAIRS = 512  # repetitions beyond which a trend is sought in the medians of blocks: pairs grow with the square


@dataclass(frozen=True)
class Summary:
    """Seconds of one side's repetitions.

    p90, p95, p99: interpolated linearly between the neighbours of rank q·(n-1), counted from 0; None where fewer than
    1/(1-q) repetitions were made, so that none is expected beyond it. variation: standard deviation (n-1) by mean.
    """

    count: int
    minimum: float
    median: float
    mean: float
    p90: float | None
    p95: float | None
    p99: float | None
    variation: float


@dataclass(frozen=True)
class Trend:
    """How far values moved from the first to the last, as a share of their median, and whether chance explains it."""

    change: float
    significant: bool


def summarise(seconds: Sequence[float]) -> Summary:
    """Return the summary of at least two repetitions."""
    values = np.asarray(seconds, np.float64)
    mean = float(values.mean())
    return Summary(
        count=len(values),
        minimum=float(values.min()),
        median=float(np.median(values)),
        mean=mean,
        p90=percentile(values, 90),
        p95=percentile(values, 95),
        p99=percentile(values, 99),
        variation=float(values.std(ddof=1)) / mean,
    )


def percentile(values: Sequence[float] | np.ndarray, percent: int) -> float | None:
    """Return a percentile by linear interpolation, or None when there are too few values to speak of it."""
    if len(values) < needed_for(percent):
        return None
    return float(np.percentile(np.asarray(values, np.float64), percent, method="linear"))


def needed_for(percent: int) -> int:
    """Return how many repetitions a percentile above the median needs: 10, 20 and 100 for p90, p95 and p99."""
    return -(-100 // (100 - percent))


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the narrowest pair of order statistics that holds the median with at least 95 % confidence.

    By the sign test: the k-th smallest and k-th largest of n cover it with 1 - 2·P(Binomial(n, ½) < k), whatever the
    distribution. None below six values, where even the extremes cover less.
    """
    ordered, n = sorted(values), len(values)
    below, rank = 0, 0
    while rank < n // 2 and 2 * (below + math.comb(n, rank)) <= (1 - CONFIDENCE) * 2**n:
        below += math.comb(n, rank)
        rank += 1
    return None if rank == 0 else (ordered[rank - 1], ordered[n - rank])


def least_for_interval() -> int:
    """Return the fewest values that `median_interval` answers for."""
    return next(n for n in range(1, 64) if median_interval([0.0] * n) is not None)


def trend(values: Sequence[float]) -> Trend:
    """Test values in the order in which they were taken for a drift (Mann and Kendall), sized by Theil's slope."""
    y = np.asarray(values, np.float64)
    if len(y) > _MOST_PAIRS:
        y = np.array([np.median(block) for block in np.array_split(y, _MOST_PAIRS // 2)])
    n = len(y)
    if n < 3:
        return Trend(0.0, False)
    first, second = np.triu_indices(n, 1)
    differences = y[second] - y[first]
    score = float(np.sign(differences).sum())
    variance = n * (n - 1) * (2 * n + 5) / 18
    z = max(abs(score) - 1, 0) / math.sqrt(variance)
    slope = float(np.median(differences / (second - first)))
    return Trend(slope * (n - 1) / float(np.median(y)), z > _Z)
