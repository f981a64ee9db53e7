"""Where a generation's time goes: a run of its own in which every call of a network is waited for and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from himar_kernels import Phase
from himar_runtime import PhaseInfo
from himar_runtime.phases import VAE_DECODER


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
    """One component's share of a run. phase: "low", "high", or "decode" for the VAE decoder."""

    component: str
    phase: Phase | Literal["decode"]
    calls: int
    seconds: float


@dataclass(frozen=True)
class Split:
    """A run's seconds and its parts; what is in no part is the host's: draws, reverse steps, index lists, copies."""

    seconds: float
    parts: tuple[Part, ...]

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


def split_run(run: Callable[[], object], clock: Clock, phases: Sequence[PhaseInfo]) -> Split:
    """Run once with `clock`, which the networks of `run` use, from zero; both sides have run often before."""
    clock.clear()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    names: list[tuple[str, Phase | Literal["decode"]]] = []
    for phase in phases:
        names += [(phase.transformer, phase.name), (phase.head, phase.name)]
    names.append((VAE_DECODER, "decode"))
    parts = [Part(name, phase, clock.calls[name], clock.seconds[name]) for name, phase in names if name in clock.calls]
    return Split(seconds, tuple(parts))
