"""Computes how many times faster figure 3's engines are than eager, with an interval, for calls and composed images.

What was measured has the ratio of `himar-export bench`. Composed seconds are sums over calls that were timed one after
another, so no round has all of an image; their interval comes from drawing the rounds again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_export.bench.measurement import EAGER, ENGINES, Measurement
from himar_export.bench.statistics import CONFIDENCE, least_for_interval
from himar_export.bench.verdict import OTHERS, WIDEST, Ratio, ratio

RESAMPLES, SEED = 2000, 7
"""How often rounds are drawn again, and of which random numbers."""


def statistics_of(measurement: Measurement) -> dict[str, Any]:
    """Return what a record keeps of a measurement beside its seconds.

    compared: whether outputs had limits; where rounding alone decides, single components were compared instead.
    """
    return {
        "warm_up": {side: asdict(timed.warm_up) for side, timed in measurement.times.items()},
        "doubts": {side: list(timed.doubts) for side, timed in measurement.times.items()},
        "ratios": {side: asdict(each) for side, each in measurement.ratios.items()},
        "others": measurement.others,
        "compared": measurement.compared,
    }


def ratio_of(entry: Mapping[str, Any]) -> Ratio | None:
    """Return how many times faster the engines were than eager in a record's entry.

    Records of before have no ratios; theirs is of the seconds that they hold, None where they hold none of a side.
    """
    kept = entry.get("ratios", {}).get(EAGER)
    if kept is not None:
        return Ratio(kept["value"], kept["low"], kept["high"], tuple(kept["doubts"]))
    seconds = entry.get("seconds", {})
    eager, engines = seconds.get(EAGER, ()), seconds.get(ENGINES, ())
    rounds = min(len(eager), len(engines))
    return ratio(eager[:rounds], engines[:rounds]) if rounds else None


def composed_ratio(
    weights: Sequence[float],
    eager: Sequence[Sequence[float]],
    engines: Sequence[Sequence[float]],
    between: tuple[float, float] = (0.0, 0.0),
    others: Sequence[float] = (),
) -> Ratio:
    """Return eager's composed seconds by the engines', each the sum of its calls' median seconds.

    The interval is the middle 95 % of that quotient over 2,000 draws of the rounds with replacement, the same rounds
    of every call and both sides. None with fewer rounds than an interval of a measured ratio needs.

    Args:
        weights: how often each call's seconds stand in the sum.
        eager, engines: each call's seconds, a round after the other.
        between: both sides' seconds between the networks, which do not vary here.
        others: of each call, the share of the cores' time that other processes had; empty where it is unknown.
    """
    rounds = min(len(seconds) for seconds in (*eager, *engines))
    slow, fast = (np.array([seconds[:rounds] for seconds in side], np.float64) for side in (eager, engines))
    times = np.asarray(weights, np.float64)

    def quotient(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        parts = [np.tensordot(times, np.median(side[:, drawn], axis=-1), 1) for side in (slow, fast)]
        result: NDArray[np.float64] = (parts[0] + between[0]) / (parts[1] + between[1])
        return result

    value = float(quotient(np.arange(rounds)))
    low = high = None
    doubts = []
    if rounds < least_for_interval():
        doubts.append(f"{rounds} rounds are too few for an interval of 95 % confidence; {least_for_interval()} are "
                      f"needed")  # fmt: skip
    else:
        drawn = np.random.default_rng(SEED).integers(rounds, size=(RESAMPLES, rounds))
        tail = 100 * (1 - CONFIDENCE) / 2
        low, high = (float(each) for each in np.percentile(quotient(drawn), [tail, 100 - tail]))
        interval = f"the interval {low:.2f} … {high:.2f}"
        if low <= 1 <= high:
            doubts.append(f"{interval} holds 1")
        if high - low > WIDEST * value:
            doubts.append(f"{interval} is wider than {WIDEST:.0%} of the ratio")
    if len(others):
        share = float(np.average(others, weights=times * np.median(fast, axis=1)))
        if share > OTHERS:
            doubts.append(f"other processes had {share:.0%} of the cores' time")
    return Ratio(value, low, high, tuple(doubts))
