"""Chooses how many CPU threads a program takes by default: no more than the CPUs that it was given.

That is the smallest of the CPUs in the process's affinity mask, OMP_NUM_THREADS, and the CPU quota of its control
groups (`docker run --cpus`, a pod's limit), rounded up. `runtime/cpp/src/cpu_threads.cpp` is the same in C++.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from .control_groups import control_groups, read

VARIABLE = "OMP_NUM_THREADS"
_MOST_DIGITS = 9


def default_threads(environment: Mapping[str, str] | None = None, root: Path = Path("/"), cpus: int = 0) -> int:
    """Return the number of CPU threads to use by default, at least 1.

    Args:
        environment: where OMP_NUM_THREADS is looked up; the process's if not given. Of a list ("4,2") the first number
            counts; a value that is not a whole number of at least 1 is ignored.
        root: the folder that holds proc and sys.
        cpus: the CPUs that the process may run on; its affinity mask's if 0.
    """
    asked = omp_threads((os.environ if environment is None else environment).get(VARIABLE, ""))
    limits = [float(cpus or allowed_cpus()), *([] if asked is None else [float(asked)]), *_quotas(root)]
    return max(1, math.ceil(min(limits)))


def allowed_cpus() -> int:
    """Return how many CPUs the process's affinity mask has; all of the machine's where the system knows no masks."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def omp_threads(text: str) -> int | None:
    """Return the first number of OMP_NUM_THREADS, or None where it gives none of at least 1."""
    first = text.partition(",")[0].strip()
    found = re.fullmatch(r"\+?0*([0-9]+)", first, re.ASCII)
    number = int(found[1][:_MOST_DIGITS]) if found else 0
    return number if number >= 1 else None


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quota of every control group that the process is in, its parents' included, in CPUs."""
    for version, folder in control_groups(root, "cpu"):
        quota = _quota_of_version_2(folder) if version == 2 else _quota_of_version_1(folder)
        if quota is not None:
            yield quota


def _quota_of_version_2(folder: Path) -> float | None:
    quota, _, period = read(folder / "cpu.max").strip().partition(" ")
    return _share(quota, period or "100000")  # "max 100000" where there is none


def _quota_of_version_1(folder: Path) -> float | None:
    return _share(read(folder / "cpu.cfs_quota_us"), read(folder / "cpu.cfs_period_us"))  # -1 where there is none


def _share(quota: str, period: str) -> float | None:
    """Return microseconds of CPU time per microsecond, or None where the texts give no such quota."""
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None
