"""Breaks down a generation's time, in runs of their own in which every call of a network is waited for and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

BREAKDOWN_RUNS, BREAKDOWN_SECONDS = 3, 60.0


@dataclass
class Clock:
    """Adds up the seconds of a network's calls, by component. wait: returns when a device has nothing left to do."""

    wait: Callable[[], None] = lambda: None
    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def of(self, component: str, counts: bool = True) -> Iterator[None]:
        """Time what is inside; counts: whether it is a call, not only a part of one."""
        self.wait()
        start = time.perf_counter()
        yield
        self.wait()
        self.seconds[component] = self.seconds.get(component, 0.0) + time.perf_counter() - start
        self.calls[component] = self.calls.get(component, 0) + counts

    def clear(self) -> None:
        """Forget what was added up."""
        self.seconds.clear()
        self.calls.clear()


@dataclass(frozen=True)
class Part:
    """One component's share of a run, in one of the phases of its family, "decode" for the VAE decoder."""

    component: str
    phase: str
    calls: int
    seconds: float


@dataclass(frozen=True)
class TimeBreakdown:
    """A run's seconds and its parts; what is in no part is the host's: draws, reverse steps, index lists, copies.

    others: the seconds of the runs beside it, of which it is the median.
    """

    seconds: float
    parts: tuple[Part, ...]
    others: tuple[float, ...] = ()

    @property
    def host(self) -> float:
        """Seconds outside the networks."""
        return self.seconds - sum(part.seconds for part in self.parts)

    def part(self, component: str) -> Part | None:
        """Return a component's part; None where it did not run."""
        return next((part for part in self.parts if part.component == component), None)

    def of_phase(self, phase: str) -> float:
        """Return the seconds of a phase's networks; of "decode" the decoder's."""
        return sum(part.seconds for part in self.parts if part.phase == phase)


def break_down_run(run: Callable[[], object], clock: Clock, parts: Sequence[tuple[str, str]]) -> TimeBreakdown:
    """Run once with `clock`, which the networks of `run` use, from zero.

    parts: components, each with its phase, in order; those that did not run are left out.
    """
    clock.clear()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    found = [Part(name, phase, clock.calls[name], clock.seconds[name]) for name, phase in parts if name in clock.calls]
    return TimeBreakdown(seconds, tuple(found))


def break_down_runs(ways: Mapping[str, Callable[[], TimeBreakdown]]) -> dict[str, TimeBreakdown]:
    """Return each way's run of median length among BREAKDOWN_RUNS, which take turns after one that is not counted.

    Where runs are so long that these would take more than BREAKDOWN_SECONDS, there are fewer, at least the first one.
    """
    first = {name: run() for name, run in ways.items()}
    count = min(BREAKDOWN_RUNS, int(BREAKDOWN_SECONDS / sum(breakdown.seconds for breakdown in first.values())))
    runs: dict[str, list[TimeBreakdown]] = {name: [] for name in ways}
    for _ in range(count):
        for name, run in ways.items():
            runs[name].append(run())
    return {name: _middle(found or [first[name]]) for name, found in runs.items()}


def _middle(runs: Sequence[TimeBreakdown]) -> TimeBreakdown:
    """Return the run of median length, the shorter one of two."""
    ordered = sorted(runs, key=lambda breakdown: breakdown.seconds)
    middle = ordered.pop((len(ordered) - 1) // 2)
    return replace(middle, others=tuple(breakdown.seconds for breakdown in ordered))
