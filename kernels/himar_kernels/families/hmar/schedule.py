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
        halves: 2 where rows are [conditional; unconditional], 1 where the conditional rows run alone: without guidance,
            unless later scales attend to the keys and values of this one.
    """

    index: int
    scale: int
    step: int
    guidance: float
    redrawn: int
    remasked: int
    halves: int


def plan(sampling: SamplingConfig, scales: Scales) -> tuple[Forward, ...]:
    """Return all forwards of a run, in order. Raises InputError where the schedule does not fit the scales."""
    forwards: list[Forward] = []
    for scale, counts in enumerate(sampling.counts(scales)):
        redrawn = scales.cells[scale]
        for step, count in enumerate(counts):
            share = sampling.mask_guidance if step else scale / (len(scales) - 1)
            guidance = sampling.guidance * share
            halves = 2 if guidance or (sampling.all_scales and sampling.guidance) else 1
            forwards.append(Forward(len(forwards), scale, step, guidance, redrawn, redrawn - count, halves))
            redrawn -= count
    return tuple(forwards)
