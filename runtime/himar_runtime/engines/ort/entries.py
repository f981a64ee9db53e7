"""Keeps apart the processes that make, use and remove entries of a folder, and removes those used least recently.

    DIR/<key>.lock          locked by the process that makes or removes the entry; gone when it has
    DIR/<key>/entry.json    locked together by the processes that use the entry, alone by the one that removes it;
                            its time of change is that of the last use

An entry is a folder that appears in one move. Locks end with the process that holds them, however it ends. The C++
runtime (runtime/cpp/src/engines/ort/entries.cpp) takes the same ones.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from himar_kernels import EngineError

log = logging.getLogger(__name__)

WAIT_SECONDS = 300
"""How long a process waits for another that makes the same entry."""

ENTRY = "entry.json"

_KEY = "[0-9a-f]{32}"


def use(folder: Path) -> int | None:
    """Keep an entry from being removed and note that it is used.

    Returns: a descriptor, which keeps it until it is closed; None where there is no entry.
    """
    import fcntl  # not on every system

    try:
        descriptor = os.open(folder / ENTRY, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:  # it is being removed
        os.close(descriptor)
        return None
    except OSError as error:  # a disk without locks, where nothing is removed either
        log.debug("%s is not locked: %s", folder, error)
    if not _names(folder / ENTRY, descriptor):
        os.close(descriptor)
        return None
    with contextlib.suppress(OSError):  # of another user, which may be read
        os.utime(descriptor)
    return descriptor


@contextlib.contextmanager
def making(folder: Path, wait: float | None = None) -> Iterator[None]:
    """Hold an entry's lock, so that processes which start together make it once; wait: seconds, WAIT_SECONDS if None.

    Raises EngineError where another process holds it for longer, OSError where the folder cannot be written.
    """
    import fcntl

    seconds = WAIT_SECONDS if wait is None else wait
    end = time.monotonic() + seconds
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".lock")
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _names(path, descriptor):  # else who held it has removed it since
                break
        except BlockingIOError:
            if time.monotonic() >= end:
                os.close(descriptor)
                raise EngineError(f"another process has been at it for {seconds:g} s") from None
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(0.05)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def remove_oldest(root: Path, most: int) -> None:
    """Remove entries that no process uses, the least recently used first, until all take at most `most` bytes.

    What killed processes left unfinished goes too. What cannot be removed stays.
    """
    try:
        folders = [path for path in root.iterdir() if path.is_dir()]
    except OSError:
        return
    for path in folders:
        left = re.fullmatch(rf"\.({_KEY})\.[0-9a-f]{{8}}", path.name)
        if left is not None:
            with contextlib.suppress(OSError, EngineError), making(root / left[1], wait=0):
                shutil.rmtree(path, ignore_errors=True)
    kept = sorted((*_facts(path), path) for path in folders if re.fullmatch(_KEY, path.name))
    total = sum(size for _, size, _ in kept)
    for _, size, path in kept:
        if total <= most:
            break
        if _removed(path):
            total -= size
            log.info("removed %s, which was used least recently, to keep at most %d bytes", path, most)


def _facts(folder: Path) -> tuple[float, int]:
    """Return the time of an entry's last use, 0 where it is damaged, and its bytes."""
    used, size = 0.0, 0
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            facts = path.stat()
            size += facts.st_size
            used = facts.st_mtime if path.name == ENTRY else used
    return used, size


def _removed(folder: Path) -> bool:
    """Remove an entry unless a process uses, makes or removes it; return whether it is gone."""
    import fcntl

    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(making(folder, wait=0))
            with contextlib.suppress(FileNotFoundError):  # a damaged one, which nobody uses
                descriptor = os.open(folder / ENTRY, os.O_RDWR | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
            folder.rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
            return True
    except (OSError, EngineError):
        return False


def _names(path: Path, descriptor: int) -> bool:
    """Return whether a path leads to the file that is open."""
    with contextlib.suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False
