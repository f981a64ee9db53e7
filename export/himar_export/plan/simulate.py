"""Simulates one device of a service: random arrivals, the service's own policy, and calls of known lengths."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass

import numpy as np

from himar_runtime.service.policy import Policy

from .times import CallSeconds

_INSTANT = 1e-9


@dataclass(frozen=True)
class Traffic:
    """What arrives at one device.

    Attributes:
        rate: requests per second, a Poisson process.
        images: of each request.
        overhead: seconds of each request outside the engines' calls: HTTP, PNGs.
    """

    rate: float
    images: int = 1
    overhead: float = 0.0


@dataclass(frozen=True)
class Simulated:
    """What became of the requests that count.

    Attributes:
        seconds: from arrival to answer, of each that was answered.
        queued: of them before their call.
        refused: requests that found the queue full.
        most_waiting: requests that waited at once, at most.
        images_per_call: mean.
        busy: share of the time that a lane worked.
    """

    seconds: np.ndarray
    queued: np.ndarray
    refused: int
    most_waiting: int
    images_per_call: float
    busy: float

    def percentile(self, percent: float) -> float:
        """Return a percentile of all requests' seconds; those of refused ones are infinite, and so is that of none."""
        count = len(self.seconds) + self.refused
        if not len(self.seconds) or self.refused > count * (1 - percent / 100):
            return float("inf")
        return float(np.percentile(self.seconds, min(percent * count / len(self.seconds), 100)))


@dataclass(frozen=True, eq=False)
class _Request:
    """A request that waits, as `Policy` sees it."""

    accepted: float
    images: int
    counts: bool
    settings: None = None


def simulate(
    traffic: Traffic, times: CallSeconds, policy: Policy, requests: int = 20_000, seed: int = 0, warm_up: float = 0.1
) -> Simulated:
    """Simulate so many requests.

    Args:
        seed: of their times; himar-bench-server's --seed gives the same ones.
        warm_up: share of further requests that come first and do not count: they find an empty queue.
    """
    return _Device(traffic, times, policy, seed).run(requests, int(requests * warm_up))


class _Device:
    def __init__(self, traffic: Traffic, times: CallSeconds, policy: Policy, seed: int) -> None:
        self._traffic, self._times, self._policy = traffic, times, policy
        self._random = random.Random(seed)
        self._waiting: list[_Request] = []
        self._free = dict.fromkeys(range(policy.lanes), 0.0)  # since when each lane has had nothing to do
        self._open = 0
        self._before = 0
        self._ends: list[tuple[float, int, int, list[_Request]]] = []
        self._number = itertools.count()
        self._seconds: list[float] = []
        self._queued: list[float] = []
        self._running = self._refused = self._most_waiting = self._calls = self._called = 0
        self._worked = 0.0

    def run(self, requests: int, warm: int) -> Simulated:
        arrival, left = self._random.expovariate(self._traffic.rate), warm + requests
        now = wake = 0.0
        while left or self._ends or self._waiting:
            next_arrival = arrival if left else float("inf")
            next_end = self._ends[0][0] if self._ends else float("inf")
            now = min(next_arrival, next_end, wake)
            if now == next_end:
                self._end()
            elif now == next_arrival:
                self._arrive(now, left <= requests)
                left -= 1
                arrival += self._random.expovariate(self._traffic.rate)
            wake = self._start(now)
        return Simulated(
            np.array(self._seconds),
            np.array(self._queued),
            self._refused,
            self._most_waiting,
            self._called / max(self._calls, 1),
            self._worked / (now * self._policy.lanes) if now else 0.0,
        )

    def _arrive(self, now: float, counts: bool) -> None:
        if self._policy.is_full(len(self._waiting), self._policy.lanes - len(self._free)):
            self._refused += counts
            return
        self._waiting.append(_Request(now, self._traffic.images, counts))
        self._open += 1

    def _end(self) -> None:
        now, _, lane, call = heapq.heappop(self._ends)
        self._free[lane] = now
        self._open -= len(call)
        self._running -= sum(each.images for each in call)
        self._seconds += [now - each.accepted + self._traffic.overhead for each in call if each.counts]

    def _start(self, now: float) -> float:
        """Start the calls that can start; return when to look again if nothing else happens."""
        wake = float("inf")
        for lane, free in list(self._free.items()):
            if not self._waiting:
                break
            chosen = self._policy.choose(self._waiting, self._running)
            pause = self._policy.pause(chosen, len(self._waiting), self._before, free, now)
            if pause > _INSTANT:
                wake = min(wake, now + pause)
                continue
            self._call(lane, chosen, now)
        self._most_waiting = max(self._most_waiting, len(self._waiting))
        return wake

    def _call(self, lane: int, chosen: list[_Request], now: float) -> None:
        taken = set(map(id, chosen))
        self._waiting = [each for each in self._waiting if id(each) not in taken]
        self._before = self._open if len(chosen) > 1 else 0
        del self._free[lane]
        images = sum(each.images for each in chosen)
        seconds = self._times.of(images)
        heapq.heappush(self._ends, (now + seconds, next(self._number), lane, chosen))
        self._queued += [now - each.accepted for each in chosen if each.counts]
        self._calls += 1
        self._called += images
        self._worked += seconds
        self._running += images
