"""Computes how many tokens each autoregressive step reveals, and under which guidance (docs/model.md §6)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from himar_kernels.arithmetic.draws import Phase
from himar_kernels.shared.errors import InputError

from .sampling import GuidanceSchedule, SamplingConfig


@dataclass(frozen=True)
class Step:
    """One autoregressive step of one phase.

    It reveals the positions `order[masked - revealed : masked]` of every image's order.

    Attributes:
        phase: "low" or "high".
        index: counts the steps of the phase from 0.
        masked: m_i, positions still masked before the step.
        masked_after: m_{i+1} as the guidance formula takes it; at the last step it is 1, not 0.
        revealed: positions the step fixes; at the last step all `masked` that are left.
        guidance: scale of classifier-free guidance in this step; 1 where it is below the settings' least_guidance.
            "linear" grows with the share of all positions that is known, of which an edit has some from the start.
        diffusion_steps: length of the head's chain in this step.
    """

    phase: Phase
    index: int
    masked: int
    masked_after: int
    revealed: int
    guidance: float
    diffusion_steps: int

    @property
    def halves(self) -> int:
        """2 under guidance, where rows are [conditional; unconditional], else 1."""
        return 1 if self.guidance == 1 else 2


def masked_counts(positions: int, steps: int) -> tuple[int, ...]:
    """Return m_0 … m_T of a phase with n = `positions` and T = `steps`.

    m_0 = n and m_{i+1} = max(1, min(m_i - 1, floor(n·cos(π/2·(i+1)/T)))), in float64. With T ≤ n every step
    reveals at least one position. Raises InputError for T outside 1 … n.
    """
    if not 1 <= steps <= positions:
        raise InputError(f"{steps} steps asked for {positions} positions; ask for 1 to {positions} steps.")
    counts = [positions]
    for step in range(1, steps + 1):
        still_masked = math.floor(positions * math.cos(math.pi / 2 * step / steps))
        counts.append(max(1, min(counts[-1] - 1, still_masked)))
    return tuple(counts)


def guidance_at(schedule: GuidanceSchedule, scale: float, positions: int, masked_after: int) -> float:
    """Return the guidance of a step after which `masked_after` of `positions` are masked.

    "linear" is 1 + (scale - 1)·(n - m_{i+1})/n, "constant" is `scale`; InputError for any other schedule.
    "linear" rounds every operation to float32, as the released model does: its values come out exactly.
    """
    if schedule == "linear":
        growth = np.float32(scale - 1) * np.float32(positions - masked_after) / np.float32(positions)
        return float(np.float32(1) + growth)
    if schedule == "constant":
        return float(scale)
    raise InputError(f"guidance_schedule is {schedule!r}; it must be 'linear' or 'constant'.")


def plan_phase(sampling: SamplingConfig, phase: Phase, positions: int, drawn: int | None = None) -> tuple[Step, ...]:
    """Return the steps of one phase of n = `positions`, in order.

    drawn: of an edit, how many of them are masked to begin with, m_0. There are min(T, m_0) steps then, none where m_0
    is 0; step i of k takes entry ⌊(i+1)·T/k⌋-1 of a list of T values, so that the last takes the last.
    """
    lengths = sampling.diffusion_counts(phase)
    steps, first = len(lengths), positions
    if drawn is not None:
        steps, first = min(steps, drawn), drawn
    counts = masked_counts(first, steps) if first else ()
    plan = []
    for index, (masked, masked_after) in enumerate(itertools.pairwise(counts)):
        revealed = masked if index == steps - 1 else masked - masked_after
        entry = (index + 1) * len(lengths) // steps - 1
        guidance = _guidance(sampling, phase, entry, positions, masked_after)
        plan.append(Step(phase, index, masked, masked_after, revealed, guidance, lengths[entry]))
    return tuple(plan)


def _guidance(sampling: SamplingConfig, phase: Phase, entry: int, positions: int, masked_after: int) -> float:
    """The scale of a step: of the phase's list or its schedule, and 1 where that is below the least."""
    scale, scales = sampling.low_guidance, sampling.low_guidances
    if phase == "high":
        scale, scales = sampling.high_guidance, sampling.high_guidances
    chosen = guidance_at(sampling.guidance_schedule, scale, positions, masked_after)
    if scales:
        chosen = scales[entry]
    return chosen if chosen >= sampling.least_guidance else 1.0


def plan(
    sampling: SamplingConfig, low_positions: int, high_positions: int, drawn: tuple[int, int] | None = None
) -> tuple[Step, ...]:
    """Return all steps of a run: phase low with S positions, then phase high with N. Raises InputError.

    S = 0 is a single scale: phase high alone. drawn: of an edit, how many of either are drawn (`plan_phase`).
    """
    sampling.check_positions(low_positions, high_positions)
    low_drawn, high_drawn = drawn or (None, None)
    low = plan_phase(sampling, "low", low_positions, low_drawn) if low_positions else ()
    return low + plan_phase(sampling, "high", high_positions, high_drawn)
