"""Lists the files of a folder of images: follows links, and tells other files apart by name and first bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from himar_kernels import InputError

from .crop import image_endings

IGNORED_FOLDERS = frozenset({"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information"})
"""Folders that systems put among files, in lower case; they are not classes."""

_NEED_PLUGINS = frozenset(
    (".heic", ".heif", ".hif", ".jxl", ".svg", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf")
    + (".eps", ".ps", ".wmf", ".emf")
)
"""Images all the same: a folder of them shall not pass as one of notes."""

_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF87a",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"8BPS",
    b"\0\0\0\x0cjP  ",
    b"\xff\x4f\xff\x51",
    b"qoif",
)


@dataclass(frozen=True)
class Skipped:
    """A file or folder that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Tree:
    """What lies below a folder: files that count, sorted by the parts of their paths, and what was left out.

    Paths are relative to the folder that was listed, with /.
    """

    files: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def list_tree(root: Path, below: str = "", wanted: Callable[[Path], bool] | None = None) -> Tree:
    """List the files at any depth of the folder `below` of `root`. Links to folders are followed.

    Left out are hidden files and folders, those that systems make (`IGNORED_FOLDERS`) and files that are not images:
    neither by their ending nor by their first bytes (or of which `wanted`, in its stead, says no). Broken links and
    pipes count: who reads them says what is wrong with them. Raises InputError for a folder that cannot be read and for
    a link that leads back to a folder that it lies in.
    """
    choose = wanted or image_recogniser()
    files: list[str] = []
    skipped: list[Skipped] = []
    for name, entry in _walk(root, below, (_identity(root),) if below else ()):
        reason = left_out(entry.name, entry.is_dir)
        if reason is None and not choose(entry.path):
            reason = "not an image"
        if reason:
            skipped.append(Skipped(name, reason))
        else:
            files.append(name)
    return Tree(
        tuple(sorted(files, key=lambda name: tuple(name.split("/")))),
        tuple(sorted(skipped, key=lambda entry: entry.path)),
    )


def left_out(name: str, is_folder: bool) -> str | None:
    """Return why an entry of a folder is left out for its name alone, or None."""
    if name.startswith("."):
        return "hidden"
    return "no folder of images" if is_folder and name.lower() in IGNORED_FOLDERS else None


def image_recogniser() -> Callable[[Path], bool]:
    """Return what says whether a file's ending is an image's, or its first bytes are.

    A file that cannot be opened counts as an image.
    """
    endings = image_endings() | _NEED_PLUGINS

    def recognise(path: Path) -> bool:
        if path.suffix.lower() in endings:
            return True
        try:
            if not path.is_file():
                return True
            with path.open("rb") as file:
                start = file.read(16)
        except OSError:
            return True
        return start.startswith(_SIGNATURES) or (start[:4], start[8:12]) == (b"RIFF", b"WEBP") or start[4:8] == b"ftyp"

    return recognise


def left_out_sentences(skipped: Sequence[Skipped], most: int = 3) -> list[str]:
    """Return a sentence per reason, with the first few names."""
    reasons: dict[str, list[str]] = {}
    for entry in skipped:
        reasons.setdefault(entry.reason, []).append(entry.path)
    return [
        f"left out {', '.join(paths[:most])}{f' and {len(paths) - most} more' if len(paths) > most else ''}: {reason}"
        for reason, paths in reasons.items()
    ]


@dataclass(frozen=True)
class _Entry:
    name: str
    path: Path
    is_dir: bool


def _walk(root: Path, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, _Entry]]:
    folder = root / below
    own = _identity(folder)
    if own in above:
        raise InputError(f"{folder} is a link back to a folder that it lies in; remove the link.")
    try:
        inside = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}; check its permissions.") from error
    for found in inside:
        name = f"{below}/{found.name}" if below else found.name
        entry = _Entry(found.name, Path(found.path), _is_folder(found))
        if entry.is_dir and left_out(entry.name, True) is None:
            yield from _walk(root, name, (*above, own))
        else:
            yield name, entry


def _identity(folder: Path) -> tuple[int, int]:
    try:
        state = folder.stat()
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}; check its permissions.") from error
    return state.st_dev, state.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
