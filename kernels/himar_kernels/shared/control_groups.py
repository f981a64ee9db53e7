"""Finds the control groups that a process is in, its parents' included, whose limits it must keep to (Linux)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def control_groups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Yield the version, 1 or 2, and the folder of each group of the process, the innermost of a hierarchy first.

    Args:
        root: the folder that holds proc and sys.
        controller: "cpu" or "memory"; of version 1 its hierarchy alone counts.
    """
    memberships = _memberships(read(root / "proc/self/cgroup"), controller)
    for version, mount_root, mount in _mounts(read(root / "proc/self/mountinfo"), controller):
        member = memberships.get(version)
        if member is None:
            continue
        for folder in _groups(root / mount.lstrip("/"), mount_root, member):
            yield version, folder


def read(path: Path) -> str:
    """Return a file's text, "" where there is none: not on this system, or not in this group."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _memberships(text: str, controller: str) -> dict[int, str]:
    """Return the process's group in version 2's hierarchy, and in version 1's hierarchy of the controller."""
    groups = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            groups[2] = path
        elif controller in controllers.split(","):
            groups[1] = path
    return groups


def _mounts(text: str, controller: str) -> Iterator[tuple[int, str, str]]:
    """Yield version, root and mount point of the hierarchies that may limit what the controller is of."""
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not separator or len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            yield 2, _unescaped(fields[3]), _unescaped(fields[4])
        elif kind[0] == "cgroup" and controller in kind[2].split(","):
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


def _unescaped(text: str) -> str:
    """Undo mountinfo's escapes, \\040 for a space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
