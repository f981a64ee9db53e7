"""Writes VAE moments of an image list to shards, once, so that training needs no VAE (docs/model.md §8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himar_kernels import ConfigError, InputError

from ..device import full_precision, usable_device
from ..loading.checkpoint_files import weights_sha256
from ..training.processes import Processes
from ..vae.autoencoder import AutoencoderKL
from ..vae.layouts import load_vae
from .cache_index import CacheIndex, Kind
from .crop import Picture, read_picture
from .digits import half_size
from .folder import ImageList
from .shard_writer import OnImages, OnNotice, write_cache


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
    Everything else, and more errors, are as for `write_cache`. Raises ConfigError for an unsuitable size, InputError
    when the moments are not finite, CheckpointError for the VAE's file.
    """
    vae = load_fitting_vae(vae_file, settings)
    content = Moments(vae.to(usable_device(settings.device)), weights_sha256(vae_file), settings)
    return write_cache(images, content, folder, settings, on_images, on_notice, processes)


def load_fitting_vae(file: Path, settings: CacheSettings) -> AutoencoderKL:
    """Load a VAE. Raises CheckpointError for its file, ConfigError for a size of images that it cannot encode."""
    vae = load_vae(file)
    if settings.img_size % (2 * vae.stride):
        raise ConfigError(
            f"img_size {settings.img_size} is not a multiple of {2 * vae.stride}; "
            f"the VAE has {vae.stride} pixels per latent side and the low scale is half as large."
        )
    return vae


class Moments:
    """See `himar.data.shard_writer.Content`: moments at both scales, plain and flipped."""

    kind: Kind = "latents"
    tensors: tuple[str, ...] = ("high", "low")

    def __init__(self, vae: AutoencoderKL, vae_sha256: str, settings: CacheSettings) -> None:
        self._vae, self._settings = vae, settings
        self.described: Mapping[str, Any] = {
            "vae_sha256": vae_sha256,
            "img_size": settings.img_size,
            "channels": vae.config.z_channels,
            "stride": vae.stride,
            "dtype": settings.dtype,
        }

    def read(self, path: Path, row: int) -> Picture:
        """Read the centre crop."""
        return read_picture(path, self._settings.img_size)

    def encode(self, pixels: NDArray[np.uint8], first: str, last: str) -> tuple[Tensor, ...]:
        """Encode crops (m, H, H, 3)."""
        return tuple(self._stored(part, first, last) for part in both_scales(self._vae, pixels))

    def beside(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return nothing: there are no captions."""
        return {}

    def _stored(self, moments: Tensor, first: str, last: str) -> Tensor:
        stored = moments.to(getattr(torch, self._settings.dtype))
        if not stored.isfinite().all():
            advice = "use float32" if moments.isfinite().all() else "the VAE does not suit these images"
            raise InputError(
                f"the moments of images {first} … {last} are not finite in {self._settings.dtype}; {advice}."
            )
        return stored


@torch.inference_mode()
def both_scales(vae: AutoencoderKL, crops: NDArray[np.uint8], flip: bool = True) -> tuple[Tensor, Tensor]:
    """Crops (m, H, H, 3) -> moments at both scales, (m, v, 2, C, h, w) and (m, v, 2, C, h/2, w/2), on the CPU.

    v is 2, plain and flipped; without `flip` it is 1.
    """
    device = next(vae.parameters()).device
    plain = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    views = torch.cat([plain, plain.flip(-1)]) if flip else plain
    scales = []
    for scale in (views, half_size(views)):
        with full_precision():
            mean, log_variance = vae.encode(scale)
        moments = torch.stack([mean, (0.5 * log_variance).exp()], dim=1)
        scales.append(torch.stack(moments.chunk(2 if flip else 1), dim=1).cpu())
    return scales[0], scales[1]
