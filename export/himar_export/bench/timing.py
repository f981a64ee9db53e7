"""Times sides against each other: warms up until stable, then takes turns, so that disturbances hit all alike.

A side's first call after another's finds the caches full of the other's data. So a side that is quick makes many calls
in its turn, the first of which is not timed.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]
Advance = Callable[[str, float], None]

STABLE_RUNS, STABLE_WITHIN, MOST_WARM_UPS = 3, 0.1, 50
TURN_SECONDS, MOST_CALLS = 0.05, 500
"""What a side's turn lasts at least, unless that takes more calls than the most."""

Rounds = tuple[tuple[float, ...], ...]
"""Seconds of a side's timed calls, round by round."""


@dataclass(frozen=True)
class Side:
    """One way of doing a piece of work.

    run: does it and returns when it is done, on a device too. outputs: does it once and returns float arrays on the
    host, to be compared.
    """

    name: str
    run: Callable[[], object]
    outputs: Callable[[], Outputs]


@dataclass(frozen=True)
class WarmUp:
    """Seconds of the runs before the timed ones, and whether they had settled: see `warm_up`."""

    seconds: tuple[float, ...]
    stable: bool


def warm_up(run: Callable[[], object], limit: float) -> WarmUp:
    """Run until the last three runs lie within 10 % of the fastest of them, or `limit` seconds or 50 runs have passed.

    A run is always made, and one that has begun is finished.
    """
    seconds: list[float] = []
    while True:
        seconds.append(seconds_of(run))
        last = seconds[-STABLE_RUNS:]
        if len(last) == STABLE_RUNS and max(last) <= (1 + STABLE_WITHIN) * min(last):
            return WarmUp(tuple(seconds), True)
        if sum(seconds) >= limit or len(seconds) == MOST_WARM_UPS:
            return WarmUp(tuple(seconds), False)


def calls_in_turn(warm: WarmUp) -> int:
    """Return how many calls of a side are timed in its turn, by how long they took before."""
    return min(MOST_CALLS, max(1, math.ceil(TURN_SECONDS / max(min(warm.seconds[-STABLE_RUNS:]), 1e-9))))


def take_turns(sides: Sequence[Side], repeats: int, calls: Mapping[str, int], advance: Advance) -> dict[str, Rounds]:
    """Return each side's seconds in `repeats` rounds, in each of which every side has its turn.

    Every round another side is the first. calls: how many of a side are timed in its turn; where they are several, one
    comes before them that is not.
    """
    times: dict[str, list[tuple[float, ...]]] = {side.name: [] for side in sides}
    with no_collection():
        for turn in range(repeats):
            advance(f"run {turn + 1} of {repeats}", turn / repeats)
            first = turn % len(sides)
            for side in (*sides[first:], *sides[:first]):
                if calls[side.name] > 1:
                    side.run()
                times[side.name].append(tuple(seconds_of(side.run) for _ in range(calls[side.name])))
    return {name: tuple(seconds) for name, seconds in times.items()}


def medians(rounds: Rounds) -> tuple[float, ...]:
    """Return the median call of every round."""
    return tuple(statistics.median(each) for each in rounds)


def seconds_of(run: Callable[[], object]) -> float:
    """Return the wall-clock time of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python's garbage collector from running inside; it starts from a clean heap."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
