"""Measures one piece of work done by several sides: outputs are compared first, and only sides that agree are timed.

It also reads how busy other processes keep the cores meanwhile: they slow the sides, and not all alike.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from himar_kernels import EngineError

from ..verify.compare import Comparison, compare
from .statistics import Summary, summarise
from .timing import Advance, Outputs, Rounds, Side, WarmUp, calls_in_turn, medians, take_turns, warm_up
from .verdict import Ratio, doubts_of, ratio

_STAT = Path("/proc/stat")
_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, interrupts (two kinds), and what a hypervisor took
_IDLE = (3, 4)  # idle, and waiting for a disk

log = logging.getLogger(__name__)

EAGER, EAGER_FP32, COMPILED, ENGINES = "eager", "eager fp32", "compiled", "engines"
"""The sides. EAGER_FP32 is there in half precision on a CPU, where PyTorch's half-precision matmuls are slow."""
SIDES = (EAGER, EAGER_FP32, COMPILED, ENGINES)
"""All of them but mixes of engines and eager components (`mixes`), in the reports' order."""


class SideUnavailableError(EngineError):
    """A side cannot run here; its text says why. The other sides are measured."""


@dataclass(frozen=True)
class Work:
    """What is to be done, and what it must give.

    name: a component's, or "generation". reference: outputs of the eager model in float32. limits: largest relative L2
    error by output; None where rounding alone may exceed any sensible one. Then values need only be finite, and what
    `instead` compares of the engines decides.
    """

    name: str
    batch: int
    reference: Outputs
    limits: Mapping[str, float | None]
    sides: Sequence[Side]
    instead: Callable[[], Sequence[Comparison]] = tuple

    @property
    def compares(self) -> bool:
        """Whether outputs have limits."""
        return None not in self.limits.values()


@dataclass(frozen=True)
class Timed:
    """A side's seconds, and what they say.

    seconds: of every round in order, the median of its calls. rounds: of all calls, round by round. summary: of all
    calls.
    """

    warm_up: WarmUp
    seconds: tuple[float, ...]
    rounds: Rounds
    summary: Summary
    doubts: tuple[str, ...]

    @classmethod
    def of(cls, warm: WarmUp, rounds: Rounds) -> Timed:
        """Return what these rounds say."""
        seconds, calls = medians(rounds), [each for one in rounds for each in one]
        return cls(warm, seconds, rounds, summarise(calls), doubts_of(seconds, warm))


@dataclass(frozen=True)
class Measurement:
    """What came of one piece of work at one batch size.

    comparisons: every output of every side with the eager model's in float32; compared: whether they had limits. times:
    of the sides that agree. refused: of the others, why they have none. ratios: how many times faster the engines are
    than each other side. others: the share of the cores' time that other processes had while the sides were timed.
    """

    name: str
    batch: int
    comparisons: tuple[Comparison, ...]
    times: Mapping[str, Timed] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    differ: tuple[str, ...] = ()
    ratios: Mapping[str, Ratio] = field(default_factory=dict)
    compared: bool = True
    others: float | None = None

    @property
    def apart(self) -> float:
        """The engines' largest relative L2 error."""
        return max(c.relative_l2 for c in self.comparisons if c.name.startswith(ENGINES))


def measure(work: Work, repeats: int, warm_limit: float, advance: Advance) -> Measurement:
    """Compare every side with the reference, then time those that agree; none where the engines do not."""
    comparisons, refused, differ = compared_sides(work, advance)
    if ENGINES in refused:
        return Measurement(work.name, work.batch, comparisons, refused=refused, differ=differ, compared=work.compares)
    sides = [side for side in work.sides if side.name not in refused]
    warm: dict[str, WarmUp] = {}
    for number, side in enumerate(sides):
        advance(f"warming up {side.name}", 0.2 + 0.2 * number / len(sides))
        warm[side.name] = warm_up(side.run, warm_limit)
    calls = {name: calls_in_turn(each) for name, each in warm.items()}
    before = spent()
    rounds = take_turns(sides, repeats, calls, lambda text, done: advance(text, 0.4 + 0.6 * done))
    others = share_of_others(before, spent())
    log.debug("%s at batch %d: %s", work.name, work.batch, rounds)
    times = {name: Timed.of(warm[name], each) for name, each in rounds.items()}
    engines = times[ENGINES].seconds
    return Measurement(
        work.name,
        work.batch,
        comparisons,
        times,
        refused,
        differ,
        {name: ratio(each.seconds, engines, others) for name, each in times.items() if name != ENGINES},
        work.compares,
        others,
    )


def compared_sides(work: Work, advance: Advance) -> tuple[tuple[Comparison, ...], dict[str, str], tuple[str, ...]]:
    """Compare every side with the reference; return all comparisons, why sides are refused, and those that differ."""
    comparisons: list[Comparison] = []
    refused: dict[str, str] = {}
    differ: list[str] = []
    for number, side in enumerate(work.sides):
        advance(f"comparing {side.name}", 0.2 * number / len(work.sides))
        try:
            outputs = side.outputs()
        except SideUnavailableError as reason:
            refused[side.name] = str(reason)
            continue
        found = [compare(f"{side.name}: {name}", outputs[name], work.reference[name], limit)
                 for name, limit in work.limits.items()]  # fmt: skip
        comparisons += found
        if (wrong := _difference(found)) is not None:
            differ.append(side.name)
            refused[side.name] = wrong
    if not work.compares and ENGINES not in refused:
        advance("comparing single components", 0.18)
        found = list(work.instead())
        comparisons += found
        if (wrong := _difference(found)) is not None:
            differ.append(ENGINES)
            refused[ENGINES] = wrong
    return tuple(comparisons), refused, tuple(differ)


def _difference(found: Sequence[Comparison]) -> str | None:
    """Return what is wrong with the worst of these comparisons; None where all pass."""
    wrong = [c for c in found if c.passed is False or not np.isfinite(c.relative_l2)]
    if not wrong:
        return None
    worst = max(wrong, key=lambda c: c.relative_l2)
    limit = "finite values" if worst.limit is None else f"limit {worst.limit:.1e}"
    return f"{worst.name} is {worst.relative_l2:.2e} from the float32 eager model ({limit})"


@dataclass(frozen=True)
class Spent:
    """Seconds of processor time since some start: of the usable cores, busy and in all, and of this process."""

    busy: float
    total: float
    own: float


def spent() -> Spent | None:
    """Return what was spent until now; None where the system does not say."""
    try:
        text = _STAT.read_text(encoding="ascii")
        cores, ticks = os.sched_getaffinity(0), os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return None
    busy, total = core_ticks(text, cores)
    return Spent(busy / ticks, total / ticks, time.process_time())


def core_ticks(stat: str, cores: set[int]) -> tuple[int, int]:
    """Return the ticks of these cores in the text of /proc/stat: busy, and busy or idle."""
    names = {f"cpu{core}" for core in cores}
    busy = idle = 0
    for line in stat.splitlines():
        name, *values = line.split()
        if name in names:
            busy += sum(int(values[place]) for place in _BUSY)
            idle += sum(int(values[place]) for place in _IDLE)
    return busy, busy + idle


def share_of_others(before: Spent | None, after: Spent | None) -> float | None:
    """Return which part of the usable cores' time other processes took in between, 0 … 1; None where it is unknown."""
    if before is None or after is None or after.total - before.total < 0.1:
        return None
    others = (after.busy - before.busy) - (after.own - before.own)
    return min(1.0, max(0.0, others / (after.total - before.total)))
