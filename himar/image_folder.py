"""Which images there are and which class each has: a folder per class, or a list file."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from himar_kernels import InputError


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ImageList:
    """Images and their classes, in a fixed order.

    root: what `names` are relative to; names: one path per image, with /; labels: class number of each image;
    class_names: name of each class number; skipped: files that belong to no class.
    """

    root: Path
    names: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()

    def path(self, index: int) -> Path:
        """File of an image."""
        return self.root / self.names[index]

    def fingerprint(self) -> str:
        """sha256 (hex) over every name and class: two lists of the same images in the same order agree."""
        digest = hashlib.sha256()
        for name, label in zip(self.names, self.labels, strict=True):
            # File names need not be UTF-8; what of one is not comes as a surrogate.
            digest.update(f"{label}\0{name}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()


def list_images(source: Path) -> ImageList:
    """List a folder with one subfolder per class, or a list file.

    Folder: the sorted names of the subfolders are the classes 0, 1, …; files below them are sorted by path.
    List file: one `PATH LABEL` per line, LABEL a number from 0, PATH relative to the file's folder; empty lines
    and lines that begin with # do not count. Hidden files (.name) never count.
    Raises InputError when nothing is there, a class is empty, or a line cannot be read.
    """
    if source.is_dir():
        return _from_folder(source)
    if source.is_file():
        return _from_list(source)
    raise InputError(f"{source} does not exist; give a folder of images or a list file.")


def files_below(folder: Path) -> list[Path]:
    """Every file at any depth, without hidden ones, sorted by its path's parts. Raises InputError.

    Broken links and pipes count too: who reads them says what is wrong with them, instead of nobody.
    """
    try:
        found = [path for path in folder.rglob("*") if not _hidden(path, folder) and not path.is_dir()]
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error}.") from error
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _from_folder(folder: Path) -> ImageList:
    try:
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}; check its rights.") from error
    classes = [path for path in inside if path.is_dir()]
    if not classes:
        raise InputError(f"{folder} has no subfolders; put the images of each class into a folder of its own.")
    names: list[str] = []
    labels: list[int] = []
    for label, path in enumerate(classes):
        files = files_below(path)
        if not files:
            raise InputError(f"the class folder {path} is empty; fill or remove it, for it would take a class number.")
        names += [file.relative_to(folder).as_posix() for file in files]
        labels += [label] * len(files)
    skipped = tuple(Skipped(path.name, "lies outside the class folders") for path in inside if path.is_file())
    return ImageList(folder, tuple(names), tuple(labels), tuple(path.name for path in classes), skipped)


def _from_list(file: Path) -> ImageList:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list file {file} cannot be read as text: {error}.") from error
    names: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, label = line.rstrip().replace("\t", " ").rpartition(" ")
        if not name.strip() or not re.fullmatch("[0-9]{1,9}", label):
            raise InputError(f"line {number} of {file} is {line!r}; write a path, a space and a class number from 0.")
        names.append(name.strip())
        labels.append(int(label))
    if not names:
        raise InputError(f"the list file {file} names no images; write one path and class number per line.")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"the list file {file} names {name} twice; name every image once.")
        seen.add(name)
    used = set(labels)
    missing = next((label for label in range(len(used)) if label not in used), None)
    if missing is not None:
        raise InputError(f"the list file {file} has no image of class {missing}; classes are 0 to {max(used)}.")
    return ImageList(file.parent, tuple(names), tuple(labels), tuple(map(str, range(max(labels) + 1))))


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
