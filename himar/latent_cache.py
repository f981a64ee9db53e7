"""Writes VAE moments of an image list to shards, once, so that training needs no VAE (himar-model.md §8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himar_kernels import ConfigError, InputError
from himar_kernels.files import refusal, remove_unfinished, require_writable_folder

from .device import full_precision, usable_device
from .digits import half_size
from .file_hash import file_sha256, weights_sha256
from .files import write_safetensors
from .image_crop import UnreadableImageError, read_crop
from .image_folder import ImageList, Skipped
from .latent_index import INDEX_FILE, CacheError, CacheIndex, Shard, read_index, require_same, write_index
from .vae import AutoencoderKL, load_vae

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
    images: ImageList, vae_file: Path, folder: Path, settings: CacheSettings, on_images: OnImages | None = None
) -> CacheIndex:
    """Encode every image at both scales, plain and flipped, and return the index of the finished cache.

    A shard holds `high` (m, 2, 2, C, h, w) and `low` (m, 2, 2, C, h/2, w/2): plain and flipped, then mean and standard
    deviation of the latent, VAE scale not applied; `labels` (m) and `rows` (m), the images' places in the list.
    A folder that an earlier run left unfinished is gone on with; a finished one is returned as it is. `on_images` gets
    (images done, images listed). Images that cannot be read are in the index's `skipped` with the reason.
    Raises CacheError when the folder belongs to something else, ConfigError for an unsuitable size, InputError
    when no image can be read or the moments are not finite, CheckpointError for the VAE's file.
    """
    vae = load_vae(vae_file)
    if settings.img_size % (2 * vae.stride):
        raise ConfigError(
            f"img_size {settings.img_size} is not a multiple of {2 * vae.stride}; "
            f"the VAE has {vae.stride} pixels per latent side and the low scale is half as large."
        )
    device = usable_device(settings.device)
    index = _begin(images, vae, weights_sha256(vae_file), folder, settings)
    vae = vae.to(device)
    with ThreadPoolExecutor(settings.readers) as pool:
        while not index.complete:
            first = len(index.shards) * settings.shard_size
            rows = range(first, min(first + settings.shard_size, index.images))
            tensors, skipped = _encode(images, rows, vae, settings, pool, on_images)
            if not index.shards:
                _prepare(folder, index)
            index = index.with_shard(_write_shard(tensors, len(index.shards), folder), skipped)
            write_index(folder, index)
    if not index.count:
        raise InputError(f"none of the {index.images} images of {images.root} can be read; see {folder / INDEX_FILE}.")
    return index


def _begin(images: ImageList, vae: AutoencoderKL, vae_sha256: str, folder: Path, settings: CacheSettings) -> CacheIndex:
    """Return the index to go on from: that of the folder, or a new one, which is not written yet."""
    require_writable_folder(folder, CacheError)
    remove_unfinished(folder / INDEX_FILE)
    try:
        inside = [path.name for path in folder.iterdir()] if folder.exists() else []
    except OSError as error:
        raise CacheError(refusal(folder, error)) from error
    fingerprint = images.fingerprint()
    if INDEX_FILE in inside:
        index = read_index(folder)
        require_same(
            folder,
            index,
            vae_sha256=vae_sha256,
            img_size=settings.img_size,
            dtype=settings.dtype,
            shard_size=settings.shard_size,
            fingerprint=fingerprint,
        )
        remove_unfinished(folder / _shard_name(len(index.shards)))  # what a killed run left of its last shard
        return index
    if inside:
        raise CacheError(f"{folder} is not empty and holds no {INDEX_FILE}; choose a new folder.")
    return CacheIndex(
        vae_sha256=vae_sha256,
        img_size=settings.img_size,
        channels=vae.config.z_channels,
        stride=vae.stride,
        dtype=settings.dtype,
        shard_size=settings.shard_size,
        source=str(images.root),
        images=len(images.names),
        fingerprint=fingerprint,
        class_names=images.class_names,
        skipped=images.skipped,
    )


def _prepare(folder: Path, index: CacheIndex) -> None:
    """Make the folder with its first index: when there is a shard to write, so that a refused run leaves nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(refusal(folder, error)) from error
    write_index(folder, index)


def _encode(
    images: ImageList,
    rows: range,
    vae: AutoencoderKL,
    settings: CacheSettings,
    pool: ThreadPoolExecutor,
    on_images: OnImages | None,
) -> tuple[dict[str, Tensor], tuple[Skipped, ...]]:
    """Return the tensors of one shard, none where no image can be read, and what was skipped."""
    parts: list[tuple[Tensor, Tensor]] = []
    kept: list[int] = []
    skipped: list[Skipped] = []
    for batch, crops in _read_ahead(images, rows, settings, pool):
        readable = [(row, crop) for row, crop in zip(batch, crops, strict=True) if not isinstance(crop, str)]
        skipped += [
            Skipped(images.names[row], crop) for row, crop in zip(batch, crops, strict=True) if isinstance(crop, str)
        ]
        if readable:
            kept += [row for row, _ in readable]
            moments = both_scales(vae, np.stack([crop for _, crop in readable]))
            parts.append(tuple(_stored(part, settings, images, batch) for part in moments))  # type: ignore[arg-type]
        if on_images:
            on_images(batch[-1] + 1, len(images.names))
    if not kept:
        return {}, tuple(skipped)
    high, low = (torch.cat(scale) for scale in zip(*parts, strict=True))
    labels = torch.tensor([images.labels[row] for row in kept])
    return {"high": high, "low": low, "labels": labels, "rows": torch.tensor(kept)}, tuple(skipped)


def _write_shard(tensors: dict[str, Tensor], number: int, folder: Path) -> Shard:
    if not tensors:
        return Shard(None, 0, None)
    path = folder / _shard_name(number)
    write_safetensors(path, tensors, {})
    return Shard(path.name, len(tensors["labels"]), file_sha256(path))


def _shard_name(number: int) -> str:
    return f"latents-{number:05d}.safetensors"


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
) -> Iterator[tuple[Sequence[int], list[NDArray[np.uint8] | str]]]:
    """Yield batches of rows with their crops, or the reason why there is none; the next batch is read meanwhile."""

    def read(row: int) -> NDArray[np.uint8] | str:
        try:
            return read_crop(images.path(row), settings.img_size)
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
