"""Times whole generations in turns: a side whose latents differ from eager's gets no time, the others a ratio."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_export.bench.measurement import EAGER
from himar_export.bench.verdict import ratio
from himar_export.bench.workload import Workload
from himar_export.families.hi_mar.bench.family import latent_limit
from himar_export.verify.compare import Comparison, compare

NOT_COMPARABLE = (
    "latents are not comparable, because rounding alone decides in chains this short; they have to be finite, no more"
)

Generate = Callable[[], NDArray[np.float32]]


def limit_against_eager(workload: Workload) -> float | None:
    """Return the largest relative error of latents against eager's in the engines' precision; None: not comparable.

    The eager model in float32 does not run here, so in half precision eager itself may be as far from it as the engines
    may: then both may be twice as far apart.
    """
    limit = latent_limit(workload, 0.0)
    half = set(workload.eager_precisions.values()) != {"fp32"}
    return latent_limit(workload, limit) if half and limit is not None else limit


@dataclass
class Turns:
    """What came of each side until now.

    times: seconds of every run, of the sides that agree; the first, which allocates and chooses algorithms, counts only
    while there is no other. apart: the largest relative error of a side's latents. refused: why others have no time.
    bit_equal: of sides that ran more than once, whether every run gave the first one's bits.
    """

    batch: int
    limit: float | None
    times: dict[str, list[float]] = field(default_factory=dict)
    apart: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    bit_equal: dict[str, bool] = field(default_factory=dict)

    def count(self, side: str, seconds: float, found: Comparison) -> None:
        """Count a run's seconds where its latents agree with eager's, else leave the side out with the reason."""
        finite = bool(np.isfinite(found.relative_l2))
        if finite and side != EAGER:  # JSON has no infinity
            self.apart[side] = max(found.relative_l2, self.apart.get(side, 0.0))
        if finite and found.passed is not False:
            self.times.setdefault(side, []).append(seconds)
            return
        self.times.pop(side, None)
        self.refused[side] = (
            f"its latents are {found.relative_l2:.2e} from eager's, beyond the limit of {found.limit:.1e}"
            if finite
            else "its latents are not all finite, or of another shape than eager's"
        )

    def figures(self) -> dict[str, Any]:
        """Return what is to be kept: seconds, ratios of the rounds after the first one, and what was compared."""
        found = {
            "limit": self.limit,
            "apart": self.apart,
            "refused": self.refused,
            "bit_equal": self.bit_equal,
            "seconds": self.times,
            "seconds_per_image": {side: median(each[1:] or each) / self.batch for side, each in self.times.items()},
            "cold": [side for side, each in self.times.items() if len(each) < 2],
            "ratios": self._ratios(),
        }
        return found if self.limit is not None else {"not_comparable": NOT_COMPARABLE, **found}

    def _ratios(self) -> dict[str, Any]:
        eager, found = self.times.get(EAGER, []), {}
        for side, own in self.times.items():
            rounds = min(len(eager), len(own))
            if side != EAGER and rounds > 1:
                found[side] = asdict(ratio(eager[1:rounds], own[1:rounds]))
        return found


def run_in_turns(
    sides: Mapping[str, Generate], turns: Turns, another: Callable[[Turns], bool], keep: Callable[[Turns], None]
) -> None:
    """Run every side once a round, each round another one first, while `another` says so; one round at least.

    Eager is the first of the first round. Every run is compared with that one before its time counts, also later ones:
    a recorded run is another one than the direct ones before it. A side that differs is left out from then on.
    """
    firsts: dict[str, NDArray[np.float32]] = {}
    number = 0
    while number == 0 or (EAGER in turns.times and len(turns.times) > 1 and another(turns)):
        left = [side for side in (EAGER, *(each for each in sides if each != EAGER)) if side not in turns.refused]
        first = number % len(left)
        for side in (*left[first:], *left[:first]):
            start = time.perf_counter()
            latents = sides[side]()
            seconds = time.perf_counter() - start
            if side in firsts:
                turns.bit_equal[side] = turns.bit_equal.get(side, True) and np.array_equal(latents, firsts[side])
            firsts.setdefault(side, latents)
            turns.count(side, seconds, compare(side, latents, firsts[EAGER], turns.limit))
            keep(turns)
            if EAGER in turns.refused:
                return
        number += 1
