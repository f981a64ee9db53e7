"""One piece of work, done by several sides: outputs are compared first, and only sides that agree are timed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from himar_kernels import EngineError

from ..compare import Comparison, compare
from .statistics import Summary, summarise
from .timing import Advance, Outputs, Side, WarmUp, take_turns, warm_up
from .verdict import Ratio, doubts_of, ratio

log = logging.getLogger(__name__)

EAGER, EAGER_FP32, COMPILED, ENGINES = "eager", "eager fp32", "compiled", "engines"
"""The sides. EAGER_FP32 is there in half precision on a CPU, where PyTorch's half products are slow."""


class SideUnavailableError(EngineError):
    """A side cannot run here; its text says why. The other sides are measured."""


@dataclass(frozen=True)
class Work:
    """What is to be done, and what it must give.

    name: a component's, or "generation". reference: outputs of the eager model in float32. limits: largest relative L2
    error by output; None where rounding alone may exceed any sensible one, then values need only be finite.
    """

    name: str
    batch: int
    reference: Outputs
    limits: Mapping[str, float | None]
    sides: Sequence[Side]


@dataclass(frozen=True)
class Timed:
    """A side's seconds, every repetition in order, and what they say."""

    warm_up: WarmUp
    seconds: tuple[float, ...]
    summary: Summary
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Measurement:
    """What came of one piece of work at one batch size.

    comparisons: every output of every side with the eager model's in float32. times: of the sides that agree. refused:
    of the others, why they have none. ratios: how many times faster the engines are than each other side.
    """

    name: str
    batch: int
    comparisons: tuple[Comparison, ...]
    times: Mapping[str, Timed] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    differ: tuple[str, ...] = ()
    ratios: Mapping[str, Ratio] = field(default_factory=dict)

    @property
    def apart(self) -> float:
        """The engines' largest relative L2 error."""
        return max(c.relative_l2 for c in self.comparisons if c.name.startswith(ENGINES))


def measure(work: Work, repeats: int, warm_limit: float, advance: Advance) -> Measurement:
    """Compare every side with the reference, then time those that agree; none where the engines do not."""
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
        wrong = [c for c in found if c.passed is False or not np.isfinite(c.relative_l2)]
        if wrong:
            differ.append(side.name)
            worst = max(wrong, key=lambda c: c.relative_l2)
            limit = "finite values" if worst.limit is None else f"limit {worst.limit:.1e}"
            refused[side.name] = f"{worst.name} is {worst.relative_l2:.2e} from the float32 eager model ({limit})"
    compared = tuple(comparisons)
    if ENGINES in refused:
        return Measurement(work.name, work.batch, compared, refused=refused, differ=tuple(differ))
    sides = [side for side in work.sides if side.name not in refused]
    warm: dict[str, WarmUp] = {}
    for number, side in enumerate(sides):
        advance(f"warming up {side.name}", 0.2 + 0.2 * number / len(sides))
        warm[side.name] = warm_up(side.run, warm_limit)
    times = take_turns(sides, repeats, lambda text, done: advance(text, 0.4 + 0.6 * done))
    log.debug("%s at batch %d: %s", work.name, work.batch, times)
    return Measurement(
        work.name,
        work.batch,
        compared,
        {
            name: Timed(warm[name], seconds, summarise(seconds), doubts_of(seconds, warm[name]))
            for name, seconds in times.items()
        },
        refused,
        tuple(differ),
        {name: ratio(seconds, times[ENGINES]) for name, seconds in times.items() if name != ENGINES},
    )
