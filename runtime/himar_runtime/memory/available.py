"""Finds how much memory a process may still take: the machine's, its control groups', its own limit's, a GPU's."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from himar_kernels import EngineError, InputError
from himar_kernels.shared.control_groups import control_groups, read

from ..engines.engine import Device

VARIABLE = "HIMAR_MEMORY_LIMIT"
"""GB that this process may count on, such as 1.5; "none" loads whatever is asked for, without a look at the memory."""

_GB = 10**9


@dataclass(frozen=True)
class Available:
    """Bytes that can still be taken, and whose they are, in words."""

    bytes: int
    of: str


def available_memory(device: Device, root: Path = Path("/")) -> Available | None:
    """Return what a device has left; None where that is not known, or where VARIABLE says that it does not matter.

    root: the folder that holds proc and sys. Raises InputError where VARIABLE is anything but a number of GB or "none".
    """
    limit = asked_limit(os.environ)
    if limit == "none":
        return None
    found = [*_of_gpu(device.index)] if device.kind == "cuda" else [*host_limits(root)]
    if limit is not None:
        found.append(Available(int(limit), f"{VARIABLE}"))
    return min(found, key=lambda each: each.bytes, default=None)


def asked_limit(environment: Mapping[str, str]) -> int | str | None:
    """Return VARIABLE in bytes, "none", or None where it is not set; InputError for anything else."""
    value = environment.get(VARIABLE, "")
    if value in ("", "none"):
        return value or None
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?", value) is None:
        raise InputError(
            f"{VARIABLE} is {value!r}; it must be the GB of memory to count on, such as 1.5, or none for no check."
        )
    return int(float(value) * _GB)


def host_limits(root: Path) -> Iterator[Available]:
    """Yield what is left by each limit that holds for this process, swap included."""
    machine = _fields(root / "proc/meminfo", 1024)
    swap = machine.get("SwapFree", 0)
    if "MemAvailable" in machine:
        yield Available(machine["MemAvailable"] + swap, "the machine")
    for version, folder in control_groups(root, "memory"):
        left = _left_in_group(version, folder, swap)
        if left is not None:
            yield Available(max(0, left), "the process's control group")
    space = _left_of_address_space(root)
    if space is not None:
        yield Available(max(0, space), "ulimit -v")


def _left_in_group(version: int, folder: Path, swap: int) -> int | None:
    """Return what a group may still take, its idle file pages included; None where it has no limit."""
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    limit, used = (_whole(read(folder / name)) for name in names)
    if limit is None or used is None or limit >= 1 << 60:  # version 1 writes a number near 2^63 for none
        return None
    idle = _fields(folder / "memory.stat", 1).get("inactive_file" if version == 2 else "total_inactive_file", 0)
    if version == 2:
        most, taken = (_whole(read(folder / name)) for name in ("memory.swap.max", "memory.swap.current"))
        swap = swap if most is None else min(swap, max(0, most - (taken or 0)))
    return limit - used + idle + swap


def _left_of_address_space(root: Path) -> int | None:
    """Return what RLIMIT_AS leaves; None where there is no such limit."""
    line = re.search(r"^Max address space +([0-9]+) ", read(root / "proc/self/limits"), re.MULTILINE)
    used = _fields(root / "proc/self/status", 1024).get("VmSize")
    return None if line is None or used is None else int(line[1]) - used


def _of_gpu(index: int) -> Iterator[Available]:
    """Yield what the driver says is free; nothing where it cannot be asked."""
    from ..queue.cuda.driver import call, runtime_api

    with contextlib.suppress(EngineError):
        api = runtime_api()
        call(api.cudaSetDevice, index)
        free, _ = call(api.cudaMemGetInfo)
        yield Available(int(free), f"GPU {index}")


def _fields(path: Path, unit: int) -> dict[str, int]:
    """Return the numbers of a file of lines such as `MemAvailable:  123 kB` or `inactive_file 123`, times a unit."""
    found = re.findall(r"^(\w+):?[ \t]+([0-9]+)(?: kB)?$", read(path), re.MULTILINE)
    return {name: unit * int(value) for name, value in found}


def _whole(text: str) -> int | None:
    """Return the whole number that a text is; None for "max" and where there is no file."""
    return int(text) if text.strip().isdecimal() else None
