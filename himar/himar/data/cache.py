"""Writes VAE moments of an image list to shards, once, so that training needs no VAE (docs/model.md §8)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himar_kernels import ConfigError, InputError
from himar_kernels.shared.files import file_sha256, refusal, remove_unfinished, require_writable_folder

from ..device import full_precision, usable_device
from ..folder_lock import LOCK_FILE, folder_lock, holder
from ..loading.checkpoint_files import weights_sha256
from ..loading.files import write_safetensors
from ..training.processes import Processes
from ..vae.autoencoder import AutoencoderKL
from ..vae.layouts import load_vae
from .cache_index import (
    INDEX_FILE,
    CacheError,
    CacheIndex,
    Shard,
    ShardRecord,
    read_index,
    read_record,
    remove_records,
    require_same,
    shard_name,
    write_index,
    write_record,
)
from .crop import Picture, UnreadableImageError, read_picture
from .digits import half_size
from .folder import ImageList, order_advice
from .tree import Skipped

_POLL, _PATIENCE = 0.2, 600.0
"""Seconds between two looks at what other processes have done, and until a first one must have begun."""

OnNotice = Callable[[str], None]
OnImages = Callable[[int, int], None]


@dataclass(frozen=True)
class CacheSettings:
    """How to cache.

    img_size: side of the centre crop in pixels; dtype: of the stored moments (float16 halves the disk and rounds
    each value by at most 1 part in 2,048); shard_size: listed images per file; batch: images per run of the VAE;
    readers: threads that decode images; device: where the VAE runs.
    """

    img_size: int = 256
    dtype: Literal["float16", "float32"] = "float16"
    shard_size: int = 1024
    batch: int = 16
    readers: int = 4
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("img_size", "shard_size", "batch", "readers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")


def cache_latents(
    images: ImageList,
    vae_file: Path,
    folder: Path,
    settings: CacheSettings,
    on_images: OnImages | None = None,
    on_notice: OnNotice | None = None,
    processes: Processes | None = None,
) -> CacheIndex:
    """Encode every image at both scales, plain and flipped, and return the index of the finished cache.

    A shard holds `high` (m, 2, 2, C, h, w) and `low` (m, 2, 2, C, h/2, w/2): plain and flipped, then mean and standard
    deviation of the latent, VAE scale not applied; `labels` (m) and `rows` (m), the images' places in the list.
    A folder that an earlier run left unfinished is continued; a finished one is returned as it is. `on_images` gets
    (images done, images listed), `on_notice` a sentence on what a user should know before the long work. Images that
    cannot be read are in the index's `skipped` with the reason, classes without an image in `unreadable_classes`.
    `processes`: this one's place among those that share the shards; the first one writes the index and waits for the
    others. They need no connection but the folder.
    Raises CacheError when the folder belongs to something else or another run is writing to it, ConfigError for an
    unsuitable size, InputError when no image can be read or the moments are not finite, CheckpointError for the VAE's
    file.
    """
    vae = load_vae(vae_file)
    if settings.img_size % (2 * vae.stride):
        raise ConfigError(
            f"img_size {settings.img_size} is not a multiple of {2 * vae.stride}; "
            f"the VAE has {vae.stride} pixels per latent side and the low scale is half as large."
        )
    device, vae_sha256, processes = usable_device(settings.device), weights_sha256(vae_file), processes or Processes()
    require_writable_folder(folder, CacheError)
    with folder_lock(folder, CacheError, run_name()) if processes.first else nullcontext():
        if not processes.first:
            _wait_for_first(folder)
        index, images = _begin(images, vae, vae_sha256, folder, settings, on_notice)
        if processes.first and processes.count > 1:
            _prepare(folder, index)  # The others wait for it.
        vae = vae.to(device)
        with ThreadPoolExecutor(settings.readers) as pool:
            for number in range(len(index.shards), index.wanted_shards):
                if number % processes.count != processes.rank or read_record(folder, number):
                    continue
                _make_shard(number, images, vae, folder, index, settings, pool, on_images)
                if processes.first:
                    index = _join(folder, index)
        while processes.first and not index.complete:
            index = _join(folder, index)
            if on_images:
                on_images(min(len(index.shards) * settings.shard_size, index.images), index.images)
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
    vae: AutoencoderKL,
    vae_sha256: str,
    folder: Path,
    settings: CacheSettings,
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
            vae_sha256=vae_sha256,
            img_size=settings.img_size,
            channels=vae.config.z_channels,
            stride=vae.stride,
            dtype=settings.dtype,
            shard_size=settings.shard_size,
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
    require_same(
        folder,
        index,
        vae_sha256=vae_sha256,
        img_size=settings.img_size,
        dtype=settings.dtype,
        shard_size=settings.shard_size,
        fingerprint=images.fingerprint(),
    )
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
    vae: AutoencoderKL,
    folder: Path,
    index: CacheIndex,
    settings: CacheSettings,
    pool: ThreadPoolExecutor,
    on_images: OnImages | None,
) -> None:
    first = number * settings.shard_size
    rows = range(first, min(first + settings.shard_size, index.images))
    tensors, record = _encode(images, rows, vae, settings, pool, on_images)
    _prepare(folder, index)
    path = folder / shard_name(number)
    if tensors:
        remove_unfinished(path)  # what a killed run left of it
        write_safetensors(path, tensors, {})
        record = replace(record, shard=Shard(path.name, len(tensors["labels"]), file_sha256(path)))
    write_record(folder, number, record)


def _join(folder: Path, index: CacheIndex) -> CacheIndex:
    """Take the records of finished shards into the index, as far as none is missing."""
    begun = len(index.shards)
    while not index.complete and (record := read_record(folder, len(index.shards))):
        index = index.with_shard(record)
    if len(index.shards) > begun:
        write_index(folder, index)
        remove_records(folder, range(begun, len(index.shards)))
    return index


def _close(folder: Path, index: CacheIndex, images: ImageList) -> CacheIndex:
    """Note the classes without an image, and remove what a killed run left behind its index."""
    remove_unfinished(folder / INDEX_FILE)
    remove_records(folder, range(index.wanted_shards))
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
    vae: AutoencoderKL,
    settings: CacheSettings,
    pool: ThreadPoolExecutor,
    on_images: OnImages | None,
) -> tuple[dict[str, Tensor], ShardRecord]:
    """Return the tensors of one shard, none where no image can be read, and the rest of its record."""
    parts: list[tuple[Tensor, Tensor]] = []
    kept: list[int] = []
    skipped: list[Skipped] = []
    turned = transparent = 0
    for batch, pictures in _read_ahead(images, rows, settings, pool):
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
            moments = both_scales(vae, np.stack(readable))
            parts.append(tuple(_stored(part, settings, images, batch) for part in moments))  # type: ignore[arg-type]
        if on_images:
            on_images(batch[-1] + 1, len(images.names))
    record = ShardRecord(Shard(None, 0, None), tuple(skipped), turned, transparent)
    if not kept:
        return {}, record
    high, low = (torch.cat(scale) for scale in zip(*parts, strict=True))
    labels = torch.tensor([images.labels[row] for row in kept])
    return {"high": high, "low": low, "labels": labels, "rows": torch.tensor(kept)}, record


@torch.inference_mode()
def both_scales(vae: AutoencoderKL, crops: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Crops (m, H, H, 3) -> moments at both scales, (m, 2, 2, C, h, w) and (m, 2, 2, C, h/2, w/2), on the CPU."""
    device = next(vae.parameters()).device
    plain = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    both = torch.cat([plain, plain.flip(-1)])
    scales = []
    for scale in (both, half_size(both)):
        with full_precision():
            mean, log_variance = vae.encode(scale)
        moments = torch.stack([mean, (0.5 * log_variance).exp()], dim=1)
        scales.append(torch.stack(moments.chunk(2), dim=1).cpu())
    return scales[0], scales[1]


def _read_ahead(
    images: ImageList, rows: range, settings: CacheSettings, pool: ThreadPoolExecutor
) -> Iterator[tuple[Sequence[int], list[Picture | str]]]:
    """Yield batches of rows with their crops, or the reason why there is none; the next batch is read meanwhile."""

    def read(row: int) -> Picture | str:
        try:
            return read_picture(images.path(row), settings.img_size)
        except UnreadableImageError as error:
            return str(error)

    batches = [rows[first : first + settings.batch] for first in range(0, len(rows), settings.batch)]
    waiting = [pool.submit(read, row) for row in batches[0]]
    for number, batch in enumerate(batches):
        ready = [future.result() for future in waiting]
        waiting = [pool.submit(read, row) for row in batches[number + 1]] if number + 1 < len(batches) else []
        yield batch, ready


def _stored(moments: Tensor, settings: CacheSettings, images: ImageList, batch: Sequence[int]) -> Tensor:
    stored = moments.to(getattr(torch, settings.dtype))
    if not stored.isfinite().all():
        advice = "use float32" if moments.isfinite().all() else "the VAE does not suit these images"
        raise InputError(
            f"the moments of images {images.names[batch[0]]} … {images.names[batch[-1]]} are not finite in "
            f"{settings.dtype}; {advice}."
        )
    return stored
