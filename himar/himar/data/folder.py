"""Finds which images there are and which class each has: a folder per class, or a list file."""

from __future__ import annotations

import codecs
import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from himar_kernels import InputError

from .tree import Skipped, left_out, list_tree

_SHOWN = 6
_OUTSIDE = "lies outside the class folders"
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True)
class ImageList:
    """Images and their classes, in a fixed order.

    root: what `names` are relative to; names: one path per image, with /; labels: class number of each image;
    class_names: name of each class number; skipped: files that belong to no class or are not images.
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

    def former(self) -> ImageList:
        """Return the list as earlier versions made it of the same folder; itself where that is the same.

        Their classes went by the order of the names alone (0, 1, 10, 11, 2), and every file was taken for an image.
        """
        tops = (name.partition("/")[0] for name in self.names)
        if any(self.class_names[label] != top for label, top in zip(self.labels, tops, strict=True)):
            return self  # a list file, whose numbers are the user's own
        inside = {entry.path for entry in self.skipped if "/" in entry.path and entry.reason == "not an image"}
        order = sorted(self.class_names)
        if order == list(self.class_names) and not inside:
            return self
        return _joined(self.root, order, sorted({*self.names, *inside}, key=_parts), self.skipped)


def list_images(source: Path, wanted: Callable[[Path], bool] | None = None) -> ImageList:
    """List a folder with one subfolder per class, or a list file.

    Folder: the subfolders are the classes 0, 1, … in the order of their names, or of their numbers where all names are
    whole numbers; files below them are sorted by path, links to folders followed. `image_tree.list_tree` says what is
    left out, and what `wanted` is. List file: one `PATH LABEL` per line, LABEL a number from 0, PATH relative to the
    file's folder; empty lines and lines that begin with # do not count.
    Raises InputError when nothing is there, a class is empty, a link leads in a circle, or a line cannot be read.
    """
    if source.is_dir():
        return _from_folder(source, wanted)
    if source.is_file():
        return _from_list(source)
    raise InputError(f"{source} does not exist; give a folder of images or a list file.")


def class_order(names: Sequence[str]) -> list[str]:
    """Return class names in the order of their numbers: by value where all are whole numbers, else by name."""
    if all(re.fullmatch("[0-9]+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def describe_classes(names: Sequence[str]) -> str:
    """Return which class has which number, in one line: all of a few, else the first and the last."""
    parts = [f"{number} = {name}" for number, name in enumerate(names)]
    if len(parts) > _SHOWN:
        parts = [*parts[: _SHOWN - 1], "…", parts[-1]]
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'}: {', '.join(parts)}"


def order_advice(names: Sequence[str]) -> str | None:
    """Return a sentence for classes named by whole numbers that are not their own, or None.

    Earlier versions numbered folders by the order of their names alone, so that class 2 was the folder 10.
    """
    if not all(re.fullmatch("[0-9]+", name) for name in names) or list(names) == class_order(names):
        return None
    number = next(number for number, name in enumerate(names) if name != class_order(names)[number])
    return (
        f"its classes are in the order of their names as text, so class {number} is the folder {names[number]}; "
        f"make it anew for the order of their numbers"
    )


def alike_classes(names: Sequence[str]) -> str | None:
    """Return a warning about two class names that differ in case or in the spelling of accents alone, or None."""
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if first != name:
            return f"the folders {first!r} and {name!r} differ in upper and lower case or accents alone: two classes"
    return None


def _from_folder(folder: Path, wanted: Callable[[Path], bool] | None) -> ImageList:
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}; check its permissions.") from error
    skipped = [Skipped(path.name, left_out(path.name, path.is_dir()) or _OUTSIDE) for path in inside]
    classes = [
        entry.path for entry, path in zip(skipped, inside, strict=True) if path.is_dir() and entry.reason == _OUTSIDE
    ]
    skipped = [entry for entry in skipped if entry.path not in classes]
    if not classes:
        raise InputError(f"{folder} has no subfolders; put the images of each class into a folder of its own.")
    names: list[str] = []
    for name in classes:
        tree = list_tree(folder, name, wanted)
        if not tree.files:
            only = f" but for {tree.skipped[0].path}, which is {tree.skipped[0].reason}" if tree.skipped else ""
            raise InputError(
                f"the class folder {folder / name} is empty{only}; fill or remove it, for it would take a class number."
            )
        names += tree.files
        skipped += tree.skipped
    return _joined(folder, class_order(classes), names, tuple(skipped))


def _joined(root: Path, classes: Sequence[str], names: Sequence[str], skipped: tuple[Skipped, ...]) -> ImageList:
    """Return the list of files that lie in class folders, class by class."""
    numbers = {name: number for number, name in enumerate(classes)}
    ordered = sorted(names, key=lambda name: numbers[name.partition("/")[0]])  # stable: files stay as they are
    labels = tuple(numbers[name.partition("/")[0]] for name in ordered)
    return ImageList(root, tuple(ordered), labels, tuple(classes), skipped)


def _parts(name: str) -> tuple[str, ...]:
    return tuple(name.split("/"))


def _list_text(file: Path) -> str:
    """Read a list file: UTF-8, or what its byte order mark says."""
    try:
        data = file.read_bytes()
        encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
        text = data.decode(encoding)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list file {file} cannot be read as text: {error}.") from error
    if "\0" in text:
        raise InputError(f"the list file {file} cannot be read as text: it holds zero bytes; save it as UTF-8.")
    return text


def _from_list(file: Path) -> ImageList:
    names: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(re.split("\r\n|\n|\r", _list_text(file)), start=1):
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
