"""Timing sides against each other: warm up until stable, then take turns, so that disturbances hit all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]
Advance = Callable[[str, float], None]

STABLE_RUNS, STABLE_WITHIN, MOST_WARM_UPS = 3, 0.1, 50


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


def take_turns(sides: Sequence[Side], repeats: int, advance: Advance) -> dict[str, tuple[float, ...]]:
    """Return each side's seconds, `repeats` rounds of one run of each; every round another side is the first."""
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    with no_collection():
        for turn in range(repeats):
            advance(f"run {turn + 1} of {repeats}", turn / repeats)
            first = turn % len(sides)
            for side in (*sides[first:], *sides[:first]):
                times[side.name].append(seconds_of(side.run))
    return {name: tuple(seconds) for name, seconds in times.items()}


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
