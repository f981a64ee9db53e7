"""Looks for the fewest devices that answer a rate in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from himar_kernels import InputError
from himar_runtime.service.policy import Policy

from .simulate import Simulated, Traffic, simulate
from .times import CallSeconds

MOST_DEVICES = 100_000
_LONGEST_QUEUE = 256  # --queue of himar-serve


@dataclass(frozen=True)
class Wanted:
    """What the service has to do.

    Attributes:
        rate: requests per second of all devices.
        p99: seconds in which 99 of 100 requests are answered.
        images: of each request.
        overhead: seconds of a request outside the engines' calls.
        requests, seed: of the simulation.
    """

    rate: float
    p99: float
    images: int = 1
    overhead: float = 0.0
    requests: int = 20_000
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """So many devices, each with `policy`, and what one of them does.

    Attributes:
        most_rate: requests per second that one device answers in time.
    """

    devices: int
    policy: Policy
    times: CallSeconds
    simulated: Simulated
    most_rate: float

    @property
    def queue(self) -> int:
        """Requests per lane that the queue should hold: twice what waited at most, and at least 64."""
        wanted = -(-2 * self.simulated.most_waiting // self.policy.lanes)
        return min(max(wanted, 64), _LONGEST_QUEUE)


def find_plan(wanted: Wanted, choices: Sequence[CallSeconds], policy: Policy) -> Plan:
    """Return the plan of fewest devices, of equals that with the shorter p99.

    Args:
        choices: times of calls for each number of lanes that a device may have.
        policy: of a device, but for its lanes.

    Raises InputError when no number of devices up to MOST_DEVICES is enough.
    """
    plans = [_plan(wanted, times, replace(policy, lanes=times.lanes, queue=_LONGEST_QUEUE)) for times in choices]
    found = [plan for plan in plans if plan is not None]
    if not found:
        shortest = min(times.of(wanted.images) for times in choices) + wanted.overhead
        if shortest <= wanted.p99:
            raise InputError(
                f"{MOST_DEVICES:,} devices do not answer 99 of 100 of {wanted.rate:g} requests a second within "
                f"{wanted.p99:g} s; ask for a lower --rate, allow a longer --p99, or take faster settings or a faster "
                f"device."
            )
        raise InputError(
            f"a request takes at least {shortest:.3g} s, so that no number of devices answers 99 of 100 within "
            f"{wanted.p99:g} s; allow a longer --p99, or take faster settings or a faster device."
        )
    return min(found, key=lambda plan: (plan.devices, plan.simulated.percentile(99)))


def _plan(wanted: Wanted, times: CallSeconds, policy: Policy) -> Plan | None:
    if times.of(wanted.images) + wanted.overhead > wanted.p99:
        return None

    def simulated(devices: float) -> Simulated:
        traffic = Traffic(wanted.rate / devices, wanted.images, wanted.overhead)
        return simulate(traffic, times, policy, wanted.requests, wanted.seed)

    def in_time(devices: float) -> bool:
        return simulated(devices).percentile(99) <= wanted.p99

    per_device = times.most_per_second(policy.max_batch) / wanted.images
    low = max(1, math.floor(wanted.rate / per_device))  # fewer cannot be enough
    high = low
    while high > MOST_DEVICES or not in_time(high):
        if high >= MOST_DEVICES:
            return None
        low, high = high, min(2 * high, MOST_DEVICES)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if in_time(middle) else (middle, high)
    if in_time(low):
        high = low
    return Plan(high, policy, times, simulated(high), _most_rate(wanted, per_device, in_time))


def _most_rate(wanted: Wanted, per_device: float, in_time: Callable[[float], bool]) -> float:
    """Return the rate that one device answers in time, to a hundredth of what it can do at all."""
    low, high = 0.0, per_device
    while high - low > per_device / 100:
        middle = (low + high) / 2
        low, high = (middle, high) if in_time(wanted.rate / middle) else (low, middle)
    return low
