"""Computes how near a side comes to the device's limits: the shortest possible time over the measured one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..cost.cost import Peaks, Work
from ..cost.run import ComponentCost, CostRequest, request_costs
from .time_breakdown import Part, TimeBreakdown


@dataclass(frozen=True)
class Reached:
    """What a component's calls, or a whole generation, made of the device.

    flops, bytes: of the engines' work, all calls (himar_export.cost.cost). least_seconds: the roofline's bound, the sum
    over all calls of the larger of operations / peak and bytes / bandwidth. share: least_seconds by the measured
    seconds; it can pass 1 where data stays in a cache, which the bound does not know.
    """

    flops: int
    bytes: int
    seconds: float
    least_seconds: float
    bound_by: str

    @property
    def share(self) -> float:
        """The share of the roofline that was reached."""
        return self.least_seconds / self.seconds

    @property
    def flops_per_second(self) -> float:
        """The rate of operations that was reached."""
        return self.flops / self.seconds


def reached(work: Work, least: float, seconds: float, peaks: Peaks) -> Reached:
    """Return what `seconds` made of a piece of work whose bound is `least`."""
    bound = "operations" if peaks.compute_seconds(work) >= peaks.memory_seconds(work) else "bytes"
    return Reached(work.flops, work.bytes, seconds, least, bound)


def of_call(work: Work, seconds: float, peaks: Peaks) -> Reached:
    """Return what one call made of the device."""
    return reached(work, peaks.seconds(work), seconds, peaks)


def costs_of(request: CostRequest, batch: int, peaks: Peaks) -> tuple[ComponentCost, ...]:
    """Return the cost of every component of a generation of `batch` images."""
    return request_costs(replace(request, batch=batch), peaks)


def of_breakdown(costs: tuple[ComponentCost, ...], breakdown: TimeBreakdown, peaks: Peaks) -> dict[str, Reached]:
    """Return what every component of a run made of the device."""
    found: dict[str, Reached] = {}
    for cost in costs:
        part: Part | None = breakdown.part(cost.component)
        if part is not None:
            found[cost.component] = reached(cost.work, cost.bound_seconds, part.seconds, peaks)
    return found


def of_generation(costs: tuple[ComponentCost, ...], seconds: float, peaks: Peaks) -> Reached:
    """Return what a whole generation made of the device, its host's work included in the seconds."""
    work = sum((cost.work for cost in costs), Work())
    return reached(work, sum(cost.bound_seconds for cost in costs), seconds, peaks)
