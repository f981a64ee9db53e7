"""Lets one writer at a time into a folder: a second run into it is refused while the first one lives."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from himar_kernels import HimarError
from himar_kernels.shared.files import refusal

LOCK_FILE = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems without locks answer: there nothing guards a folder, as nothing can."""


@contextlib.contextmanager
def folder_lock(folder: Path, error: type[HimarError], run: str = "") -> Iterator[None]:
    """Hold the lock of a folder, which is made where it is missing and vanishes again if nothing came into it.

    run: what others of the same run know it by (`holder`). The system frees the lock when its holder dies, whatever the
    file still says. Raises `error` when another process holds it, or when the folder cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = _locked(folder, error)
        except OSError as reason:
            raise error(refusal(folder, reason)) from reason
        try:
            content = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "run": run}).encode()
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, content, 0)
            yield
        finally:
            with contextlib.suppress(OSError):
                (folder / LOCK_FILE).unlink()
            os.close(descriptor)
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def holder(folder: Path) -> dict[str, Any]:
    """Return what the last holder of a folder's lock wrote of itself: pid, host, run; empty where there is none."""
    try:
        values = json.loads((folder / LOCK_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _locked(folder: Path, error: type[HimarError]) -> int:
    path = folder / LOCK_FILE
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as reason:
            os.close(descriptor)
            by = holder(folder)
            who = f"process {by['pid']} of {by['host']}" if by.keys() >= {"pid", "host"} else "another process"
            raise error(f"{who} is writing to {folder}; wait until it has ended, or choose another folder.") from reason
        except OSError as reason:
            if reason.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
        # The last holder may have removed the file between the two calls: then this lock is of no file.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)
