"""The forwards of a run: which network, on which scale, under which guidance, how many cells stay (§5)."""

from __future__ import annotations

from dataclasses import dataclass

from .sampling import SamplingConfig
from .scales import Scales


@dataclass(frozen=True)
class Forward:
    """One forward of a run. It draws a code for every cell of its scale.

    Attributes:
        index: counts all forwards from 0.
        scale: s.
        step: 0 is the next-scale network, whose codes are taken at every cell; 1 … are steps of the masked network,
            whose codes are taken at masked cells alone.
        guidance: t of `guided`: 1+t weighs the conditional logits, -t the unconditional ones.
        redrawn: cells whose code this forward replaces.
        remasked: of them, the least confident ones that the next step redraws; 0 at the last forward of a scale.
    """

    index: int
    scale: int
    step: int
    guidance: float
    redrawn: int
    remasked: int

    @property
    def halves(self) -> int:
        """2 under guidance, where rows are [conditional; unconditional], else 1: the conditional rows alone."""
        return 1 if self.guidance == 0 else 2


def plan(sampling: SamplingConfig, scales: Scales) -> tuple[Forward, ...]:
    """Return all forwards of a run, in order. Raises InputError where the schedule does not fit the scales."""
    forwards: list[Forward] = []
    for scale, counts in enumerate(sampling.counts(scales)):
        redrawn = scales.cells[scale]
        for step, count in enumerate(counts):
            share = sampling.mask_guidance if step else scale / (len(scales) - 1)
            guidance = sampling.guidance * share
            forwards.append(Forward(len(forwards), scale, step, guidance, redrawn, redrawn - count))
            redrawn -= count
    return tuple(forwards)
