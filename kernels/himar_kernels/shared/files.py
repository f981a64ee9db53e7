"""Writes files and folders atomically: readers find the old state or the new one, never a half-made one.

What is written stands in a hidden folder beside its target until it is whole: libraries that write have unfinished
files of their own there (safetensors does), and all that a killed process leaves is told by the folder's name. Its
bytes are flushed to the disk before it takes the target's name, always: without that a power cut may leave the name on
a hollow file, in training states as in caches, and a flush costs nothing beside making what is in the file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import HimarError, InputError

_LONGEST_NAME = 255
_ADVICE: Mapping[int | None, str] = {
    errno.ENOENT: "create the folder that it goes into first",
    errno.ENOTDIR: "choose a path below a folder",
    errno.EISDIR: "a folder has that name, choose another",
    errno.EEXIST: "choose another name",
    errno.ENOTEMPTY: "choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOSPC: "free some space or choose another disk",
    errno.EDQUOT: "free some space or choose another disk",
    errno.EFBIG: "choose a disk that takes larger files",
}


@contextlib.contextmanager
def new_file(target: Path, error: type[HimarError] = InputError) -> Iterator[Path]:
    """Yield an empty file in a folder of its own that becomes `target` on success and vanishes otherwise.

    A file that `target` already names is replaced; where it is a symbolic link, what the link points to.
    Raises `error`, with the reason and what to do, when the target cannot be written or is not a plain file.
    """
    try:
        place = _plain(target)
        folder = _hidden(place)
        unfinished = folder / place.name
        try:
            folder.mkdir()
            # Made by hand, because files of `tempfile` can be read by their owner alone.
            os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            mode = unfinished.stat().st_mode
            yield unfinished
            unfinished.chmod(mode)  # A library may have put a file of `tempfile` in its place.
            _flush(unfinished)
            unfinished.replace(place)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        _flush_folder(place.parent)
    except OSError as reason:
        raise error(refusal(target, reason)) from reason


def write_text(target: Path, text: str, error: type[HimarError] = InputError) -> None:
    """Write `text` as UTF-8 atomically, characters that UTF-8 cannot hold as "?". Raises `error` as `new_file` does."""
    with new_file(target, error) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="replace")


def write_json(target: Path, content: Any, error: type[HimarError] = InputError) -> None:
    """Write plain values as JSON that people can read too, in one move. Raises `error` as `new_file` does."""
    write_text(target, json.dumps(content, indent=1) + "\n", error)


@contextlib.contextmanager
def new_folder(target: Path, error: type[HimarError] = InputError) -> Iterator[Path]:
    """Yield an empty folder beside `target` that takes its name on success and vanishes otherwise.

    Raises `error` when the target is there already or cannot be written.
    """
    try:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "it exists already")
        unfinished = _hidden(target.absolute())
        try:
            unfinished.mkdir()
            yield unfinished
            for path in (*unfinished.rglob("*"), unfinished):
                _flush_folder(path) if path.is_dir() else _flush(path)
            unfinished.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        _flush_folder(unfinished.parent)
    except OSError as reason:
        raise error(refusal(target, reason)) from reason


def remove_unfinished(target: Path) -> None:
    """Remove what killed processes left of `target`. No other process may be writing it."""
    with contextlib.suppress(OSError):
        place = _real(target)
        for left in place.parent.iterdir():
            if re.fullmatch(rf"\.{re.escape(place.name)}\.[0-9a-f]{{8}}", left.name):
                shutil.rmtree(left, ignore_errors=True)


def require_writable_file(target: Path, error: type[HimarError] = InputError) -> None:
    """Raise `error` as `new_file` would, for work that takes long before it writes. Leaves nothing."""
    try:
        _probe(_plain(target).parent)
    except OSError as reason:
        raise error(refusal(target, reason)) from reason


def require_writable_folder(folder: Path, error: type[HimarError] = InputError) -> None:
    """Raise `error` unless files can be written to `folder`, or to the folder that it would be made in.

    For work that takes long before it writes. Leaves nothing, not even the folder.
    """
    try:
        place = _real(folder)
        while not place.exists():
            if len(os.fsencode(place.name)) > _LONGEST_NAME:
                raise OSError(errno.ENAMETOOLONG, "File name too long")
            place = place.parent
        _probe(place)
    except OSError as reason:
        raise error(refusal(folder, reason)) from reason


def refusal(target: Path, reason: OSError) -> str:
    """Return the sentence for a path that cannot be written: the path, the reason, what to do."""
    advice = _ADVICE.get(reason.errno, "choose another place")
    return f"{target} cannot be written: {reason.strerror or reason}; {advice}."


def _real(target: Path) -> Path:
    """Follow links, also dangling ones. Raises OSError for links in a circle."""
    place = Path(os.path.realpath(target))
    if place.is_symlink():
        raise OSError(errno.ELOOP, "its links go in a circle")
    return place


def _plain(target: Path) -> Path:
    place = _real(target)
    if place.is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a directory")
    if place.exists() and not place.is_file():
        raise OSError("it is not a plain file")
    return place


def _probe(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"0")


def _hidden(place: Path) -> Path:
    return place.with_name(f".{place.name}.{secrets.token_hex(4)}")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(path: Path) -> None:
    # Some network disks cannot flush a folder; what is in it is whole there all the same.
    with contextlib.suppress(OSError):
        _flush(path)


def file_sha256(path: Path, error: type[HimarError] = InputError) -> str:
    """Return the SHA-256 of a file's bytes as hex. Raises `error` when the file cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror or reason}.") from reason
