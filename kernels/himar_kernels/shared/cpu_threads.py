"""Chooses how many CPU threads a program takes by default: no more than the CPUs that it was given.

That is the smallest of the CPUs in the process's affinity mask, OMP_NUM_THREADS, and the CPU quota of its control
groups (`docker run --cpus`, a pod's limit), rounded up. `runtime/cpp/src/cpu_threads.cpp` is the same in C++.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

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
    memberships = _memberships(_read(root / "proc/self/cgroup"))
    for version, mount_root, mount in _mounts(_read(root / "proc/self/mountinfo")):
        member = memberships.get(version)
        if member is None:
            continue
        top = root / mount.lstrip("/")
        for folder in _groups(top, mount_root, member):
            quota = _quota_of_version_2(folder) if version == 2 else _quota_of_version_1(folder)
            if quota is not None:
                yield quota


def _memberships(text: str) -> dict[int, str]:
    """Return the process's group in version 2's hierarchy, and in version 1's hierarchy of the controller "cpu"."""
    groups = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            groups[2] = path
        elif "cpu" in controllers.split(","):
            groups[1] = path
    return groups


def _mounts(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield version, root and mount point of the hierarchies that have CPU quotas."""
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not separator or len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            yield 2, _unescaped(fields[3]), _unescaped(fields[4])
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            yield 1, _unescaped(fields[3]), _unescaped(fields[4])


def _groups(top: Path, mount_root: str, member: str) -> Iterator[Path]:
    """Yield the folders of a group and of its parents as far as they are mounted; of a group outside the top alone."""
    try:
        parts = PurePosixPath(member).relative_to(mount_root).parts
    except ValueError:
        parts = ()  # the path is another namespace's: what is mounted is the process's own
    if ".." in parts:
        parts = ()
    for count in range(len(parts), -1, -1):
        yield top.joinpath(*parts[:count])


def _quota_of_version_2(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    return _share(quota, period or "100000")  # "max 100000" where there is none


def _quota_of_version_1(folder: Path) -> float | None:
    return _share(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))  # -1 where there is none


def _share(quota: str, period: str) -> float | None:
    """Return microseconds of CPU time per microsecond, or None where the texts give no such quota."""
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # not on this system, or not in this group
        return ""


def _unescaped(text: str) -> str:
    """Undo mountinfo's escapes, \\040 for a space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
