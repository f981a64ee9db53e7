"""Reads how busy other processes keep the cores that a benchmark runs on: they slow its sides, and not all alike."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, interrupts (two kinds), and what a hypervisor took
_IDLE = (3, 4)  # idle, and waiting for a disk


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
