"""Writes what an autoencoder makes of an image list to shards, once, whatever it is that a shard holds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himar_kernels import InputError
from himar_kernels.shared.files import file_sha256, refusal, remove_unfinished, require_writable_folder

from ..folder_lock import LOCK_FILE, folder_lock, holder
from ..loading.files import write_safetensors
from ..training.processes import Processes
from .cache_index import (
    INDEX_FILE,
    CacheError,
    CacheIndex,
    Kind,
    Shard,
    ShardRecord,
    read_index,
    read_record,
    remove_records,
    require_kind,
    require_same,
    shard_name,
    write_index,
    write_record,
)
from .crop import Picture, UnreadableImageError
from .folder import ImageList, order_advice
from .tree import Skipped

_POLL, _PATIENCE = 0.2, 600.0
"""Seconds between two looks at what other processes have done, and until a first one must have begun."""

OnNotice = Callable[[str], None]
OnImages = Callable[[int, int], None]


class Content(Protocol):
    """What a cache holds of an image, and how it is made.

    kind: of the index; described: the index's fields that a continued cache must share; tensors: names in a shard.
    """

    kind: Kind
    described: Mapping[str, Any]
    tensors: tuple[str, ...]

    def read(self, path: Path, row: int) -> Picture:
        """Read the crops of an image, the one in this row of the list. Raises UnreadableImageError."""

    def encode(self, pixels: NDArray[np.uint8], first: str, last: str) -> tuple[Tensor, ...]:
        """Return the tensors of some images, their crops stacked; first and last name them in errors (InputError)."""

    def beside(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return what else a shard has of its images, by their rows in the list; may be nothing."""


class Pace(Protocol):
    """How the work is cut: listed images per file, images encoded at once, threads that decode."""

    @property
    def shard_size(self) -> int:
        """Listed images per file."""

    @property
    def batch(self) -> int:
        """Images encoded at once."""

    @property
    def readers(self) -> int:
        """Threads that decode images."""


def write_cache(
    images: ImageList,
    content: Content,
    folder: Path,
    pace: Pace,
    on_images: OnImages | None = None,
    on_notice: OnNotice | None = None,
    processes: Processes | None = None,
) -> CacheIndex:
    """Encode every image and return the index of the finished cache.

    A shard also holds `labels` (m) and `rows` (m), the images' places in the list.
    A folder that an earlier run left unfinished is continued; a finished one is returned as it is. `on_images` gets
    (images done, images listed), `on_notice` a sentence on what a user should know before the long work. Images that
    cannot be read are in the index's `skipped` with the reason, classes without an image in `unreadable_classes`.
    `processes`: this one's place among those that share the shards; the first one writes the index and waits for the
    others. They need no connection but the folder.
    Raises CacheError when the folder belongs to something else or another run is writing to it, InputError when no
    image can be read or what they become is not finite.
    """
    processes = processes or Processes()
    require_writable_folder(folder, CacheError)
    with folder_lock(folder, CacheError, run_name()) if processes.first else nullcontext():
        if not processes.first:
            _wait_for_first(folder)
        index, images = _begin(images, content, folder, pace, on_notice)
        if processes.first and processes.count > 1:
            _prepare(folder, index)  # The others wait for it.
        with ThreadPoolExecutor(pace.readers) as pool:
            for number in range(len(index.shards), index.wanted_shards):
                if number % processes.count != processes.rank or read_record(folder, number, content.kind):
                    continue
                _make_shard(number, images, content, folder, index, pace, pool, on_images)
                if processes.first:
                    index = _join(folder, index)
        while processes.first and not index.complete:
            index = _join(folder, index)
            if on_images:
                on_images(min(len(index.shards) * pace.shard_size, index.images), index.images)
            time.sleep(0 if index.complete else _POLL)
        if processes.first:
            index = _close(folder, index, images)
    if processes.first and not index.count:
        raise InputError(f"none of the {index.images} images of {images.root} can be read; see {folder / INDEX_FILE}.")
    return index


def run_name() -> str:
    """Return what the processes that torchrun started together share and those of another start do not."""
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
    return " ".join(os.environ.get(name, "-") for name in names)


def _wait_for_first(folder: Path) -> None:
    """Wait until the first process of this run holds the folder and has written its index, or all is done."""
    until = time.monotonic() + _PATIENCE
    while True:
        begun = (folder / INDEX_FILE).is_file()
        if begun and (holder(folder).get("run") == run_name() or read_index(folder).complete):
            return
        if time.monotonic() > until:
            raise CacheError(f"the first process has not begun to write {folder}; start all of them with torchrun.")
        time.sleep(_POLL)


def _begin(
    images: ImageList,
    content: Content,
    folder: Path,
    pace: Pace,
    on_notice: OnNotice | None,
) -> tuple[CacheIndex, ImageList]:
    """Return the index to continue from, that of the folder or a new one, which is not written yet; and its images."""
    try:
        inside = [path.name for path in folder.iterdir() if path.name != LOCK_FILE]
    except OSError as error:
        raise CacheError(refusal(folder, error)) from error
    if INDEX_FILE not in inside:
        left = [name for name in inside if not name.startswith(f".{INDEX_FILE}.")]
        if left:
            raise CacheError(f"{folder} is not empty and holds no {INDEX_FILE}; choose a new folder.")
        remove_unfinished(folder / INDEX_FILE)
        return CacheIndex(
            kind=content.kind,
            **content.described,
            shard_size=pace.shard_size,
            source=str(images.root),
            images=len(images.names),
            fingerprint=images.fingerprint(),
            class_names=images.class_names,
            skipped=images.skipped,
            turned=0,
            transparent=0,
        ), images
    index = read_index(folder)
    former = images.former()
    if former is not images and index.fingerprint == former.fingerprint():
        if on_notice and former.class_names != images.class_names:
            on_notice(f"{folder} keeps the order in which it was begun: {order_advice(index.class_names)}")
        images = former
    require_kind(folder, index, content.kind)
    require_same(folder, index, **content.described, shard_size=pace.shard_size, fingerprint=images.fingerprint())
    if on_notice and index.turned is None and not index.complete:
        on_notice(
            f"{folder} was begun by an earlier version: images in its first {len(index.shards)} shards lie as they are "
            f"stored, not rotated by EXIF nor put on white."
        )
    return index, images


def _prepare(folder: Path, index: CacheIndex) -> None:
    """Write the first index: when there is a shard to write, so that a refused run leaves nothing."""
    if not (folder / INDEX_FILE).exists():
        write_index(folder, index)


def _make_shard(
    number: int,
    images: ImageList,
    content: Content,
    folder: Path,
    index: CacheIndex,
    pace: Pace,
    pool: ThreadPoolExecutor,
    on_images: OnImages | None,
) -> None:
    first = number * pace.shard_size
    rows = range(first, min(first + pace.shard_size, index.images))
    tensors, record = _encode(images, rows, content, pace, pool, on_images)
    _prepare(folder, index)
    path = folder / shard_name(number, index.kind)
    if tensors:
        remove_unfinished(path)  # what a killed run left of it
        write_safetensors(path, tensors, {})
        record = replace(record, shard=Shard(path.name, len(tensors["labels"]), file_sha256(path)))
    write_record(folder, number, record, index.kind)


def _join(folder: Path, index: CacheIndex) -> CacheIndex:
    """Take the records of finished shards into the index, as far as none is missing."""
    begun = len(index.shards)
    while not index.complete and (record := read_record(folder, len(index.shards), index.kind)):
        index = index.with_shard(record)
    if len(index.shards) > begun:
        write_index(folder, index)
        remove_records(folder, range(begun, len(index.shards)), index.kind)
    return index


def _close(folder: Path, index: CacheIndex, images: ImageList) -> CacheIndex:
    """Note the classes without an image, and remove what a killed run left behind its index."""
    remove_unfinished(folder / INDEX_FILE)
    remove_records(folder, range(index.wanted_shards), index.kind)
    left_out = {entry.path for entry in index.skipped}
    readable = {label for name, label in zip(images.names, images.labels, strict=True) if name not in left_out}
    empty = tuple(name for label, name in enumerate(images.class_names) if label not in readable)
    if empty != index.unreadable_classes:
        index = replace(index, unreadable_classes=empty)
        write_index(folder, index)
    return index


def _encode(
    images: ImageList,
    rows: range,
    content: Content,
    pace: Pace,
    pool: ThreadPoolExecutor,
    on_images: OnImages | None,
) -> tuple[dict[str, Tensor], ShardRecord]:
    """Return the tensors of one shard, none where no image can be read, and the rest of its record."""
    parts: list[tuple[Tensor, ...]] = []
    kept: list[int] = []
    skipped: list[Skipped] = []
    turned = transparent = 0
    for batch, pictures in _read_ahead(images, rows, content, pace, pool):
        readable: list[NDArray[np.uint8]] = []
        for row, picture in zip(batch, pictures, strict=True):
            if isinstance(picture, str):
                skipped.append(Skipped(images.names[row], picture))
                continue
            kept.append(row)
            readable.append(picture.pixels)
            turned += picture.turned
            transparent += picture.transparent
        if readable:
            parts.append(content.encode(np.stack(readable), images.names[batch[0]], images.names[batch[-1]]))
        if on_images:
            on_images(batch[-1] + 1, len(images.names))
    record = ShardRecord(Shard(None, 0, None), tuple(skipped), turned, transparent)
    if not kept:
        return {}, record
    joined = {name: torch.cat(every) for name, every in zip(content.tensors, zip(*parts, strict=True), strict=True)}
    labels = torch.tensor([images.labels[row] for row in kept])
    return {**joined, **content.beside(kept), "labels": labels, "rows": torch.tensor(kept)}, record


def _read_ahead(
    images: ImageList, rows: range, content: Content, pace: Pace, pool: ThreadPoolExecutor
) -> Iterator[tuple[Sequence[int], list[Picture | str]]]:
    """Yield batches of rows with their crops, or the reason why there is none; the next batch is read meanwhile."""

    def read(row: int) -> Picture | str:
        try:
            return content.read(images.path(row), row)
        except UnreadableImageError as error:
            return str(error)

    batches = [rows[first : first + pace.batch] for first in range(0, len(rows), pace.batch)]
    waiting = [pool.submit(read, row) for row in batches[0]]
    for number, batch in enumerate(batches):
        ready = [future.result() for future in waiting]
        waiting = [pool.submit(read, row) for row in batches[number + 1]] if number + 1 < len(batches) else []
        yield batch, ready
