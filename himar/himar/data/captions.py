"""Reads a captions file as MS-COCO publishes it: which images there are, and what people wrote of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from himar_kernels import InputError
from himar_kernels.text.tokenizer import prompt_problem

from .folder import ImageList

_NAMED = 3
"""Images that a message names."""


@dataclass(frozen=True)
class CaptionedList(ImageList):
    """Images with captions, by ascending id; there are no classes.

    ids: of the images; captions: of each image, at least one, in the file's order. `labels` are 0 and `class_names`
    empty; see ImageList for the rest.
    """

    ids: tuple[int, ...] = ()
    captions: tuple[tuple[str, ...], ...] = ()

    def fingerprint(self) -> str:
        """sha256 (hex) over every name and caption."""
        digest = hashlib.sha256()
        for name, captions in zip(self.names, self.captions, strict=True):
            digest.update(json.dumps([name, *captions]).encode())
        return digest.hexdigest()

    def former(self) -> CaptionedList:
        """Return the list: earlier versions made none of captions."""
        return self


class Captions(NamedTuple):
    """What a captions file says, by ascending id of the images: ids, file names, and captions, at least one each."""

    ids: tuple[int, ...]
    names: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]


def read_captions(path: Path, folder: Path) -> CaptionedList:
    """Read a captions file and find its images in a folder, such as train2014.

    Raises InputError as `read_texts` does, and when an image is not in the folder.
    """
    ids, names, captions = read_texts(path)
    _require_all(
        (name for name in names if not (folder / name).is_file()),
        f"of {path} that {folder} does not have",
        "give the folder that the file describes",
    )
    return CaptionedList(folder, names, (0,) * len(ids), (), ids=ids, captions=captions)


def read_texts(path: Path) -> Captions:
    """Read a captions file without its images.

    path: JSON with "images" (each with id and file_name) and "annotations" (each with image_id and caption), as
    captions_train2014.json; what else it holds is not looked at. Raises InputError, which names the image, when the
    file is missing, damaged or of another layout, when an image has no caption or a caption no image, and
    when a caption is no prompt (see `prompt_problem`).
    """
    content = _json(path)
    images, annotations = (_entries(content, key, path) for key in ("images", "annotations"))
    names: dict[int, str] = {}
    for place, entry in enumerate(images):
        identity, name = (_value(entry, key, kind, f"image {place}", path) for key, kind in _OF_IMAGES)
        if identity in names:
            raise InputError(f"{path} has two images of id {identity}, {names[identity]} and {name}; keep one of them.")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"{path}: image {identity} is {name}, which leads out of its folder; that is not read.")
        names[identity] = name
    captions: dict[int, list[str]] = {identity: [] for identity in names}
    for place, entry in enumerate(annotations):
        identity, caption = (_value(entry, key, kind, f"annotation {place}", path) for key, kind in _OF_CAPTIONS)
        if identity not in captions:
            raise InputError(
                f"{path}: annotation {place} is of image {identity}, which the file does not list; list it, or take "
                f"the annotation out."
            )
        if not caption.strip():
            raise InputError(f"{path}: annotation {place}, of image {identity}, is blank; write it or take it out.")
        if problem := prompt_problem(caption):
            raise InputError(f"{path}: annotation {place}, of image {identity}, {problem}.")
        captions[identity].append(caption)
    ids = sorted(names)
    _require_all(
        (f"{names[identity]} (id {identity})" for identity in ids if not captions[identity]),
        f"without a caption in {path}",
        "write captions for them, or take them out of its images",
    )
    ordered = tuple(tuple(captions[identity]) for identity in ids)
    return Captions(tuple(ids), tuple(names[identity] for identity in ids), ordered)


_OF_IMAGES: tuple[tuple[str, type], ...] = (("id", int), ("file_name", str))
_OF_CAPTIONS: tuple[tuple[str, type], ...] = (("image_id", int), ("caption", str))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; check the path.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no captions file: it is damaged or no JSON ({error}); fetch it again.") from error


def _entries(content: Any, key: str, path: Path) -> list[Any]:
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(
            f'{path} is no captions file: it has no list "{key}"; give one as MS-COCO\'s captions_train2014.json.'
        )
    return entries


def _value(entry: Any, key: str, kind: type, what: str, path: Path) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) is not kind:
        wanted = "a whole number" if kind is int else "text"
        raise InputError(
            f"{path} is no captions file: {key} of {what} is {value!r:.60}, not {wanted}; give one as MS-COCO's "
            f"captions_train2014.json."
        )
    return value


def _require_all(missing: Iterable[str], where: str, advice: str) -> None:
    found = list(missing)
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        plural = "image" if len(found) == 1 else "images"
        raise InputError(f"{len(found)} {plural} {where}: {', '.join(found[:_NAMED])}{more}; {advice}.")
