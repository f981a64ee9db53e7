"""Writes codes of an image list to shards, once, so that training encodes no image, and serves them (§7).

The released trainer cuts another square out of each image every time it comes; a cache holds several of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himar_kernels import ConfigError
from himar_kernels.families.hmar import Scales

from ...device import usable_device
from ...families.hmar.presets import SIDES
from ...families.hmar.tokenizer.files import load_tokenizer
from ...families.hmar.tokenizer.network import Quantizer, Tokenizer
from ...loading.checkpoint_files import read_content, weights_file, weights_sha256
from ...loading.weight_sets import find_sets
from ...training.processes import Processes
from ..cache_index import CacheIndex, Kind
from ..cache_reader import CachedImages
from ..crop import Picture, read_crops
from ..folder import ImageList
from ..shard_writer import OnImages, OnNotice, write_cache
from .codes import hash_of
from .images import encode_crops

CROPS = 10
"""Random crops that a cache holds of each image where nothing else is said."""
_SMALL = 2**15
"""Codes up to which 16 bits are enough."""


@dataclass(frozen=True)
class CodeSettings:
    """How to cache codes.

    crops: random crops of each image, 0 for the one in the middle alone; shard_size: listed images per file; batch:
    images per run of the tokenizer; readers: threads that decode images; device: where the tokenizer runs.
    """

    crops: int = CROPS
    shard_size: int = 1024
    batch: int = 16
    readers: int = 4
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("shard_size", "batch", "readers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.crops < 0:
            raise ConfigError(f"crops is {self.crops}; it must be at least 0.")


def holds_tokenizer(file: Path) -> bool:
    """Whether a checkpoint is a multi-scale tokenizer's, as far as its names tell. Raises CheckpointError."""
    content, _ = read_content(weights_file(file))
    return any(name.endswith("quantize.embedding.weight") for each in find_sets(content) for name in each.state)


def released_scales(img_size: int) -> Scales:
    """Return the released scale list of an image size. Raises ConfigError where there is none."""
    if img_size not in SIDES:
        raise ConfigError(
            f"img_size is {img_size}; models for {', '.join(map(str, SIDES))} pixels have known scale lists: give the "
            f"model with --config for another."
        )
    return Scales(SIDES[img_size])


def cache_codes(
    images: ImageList,
    tokenizer_file: Path,
    scales: Scales,
    folder: Path,
    settings: CodeSettings,
    on_images: OnImages | None = None,
    on_notice: OnNotice | None = None,
    processes: Processes | None = None,
    *,
    groups: int | None = None,
    img_size: int | None = None,
) -> CacheIndex:
    """Encode crops of every image and return the index of the finished cache.

    A shard holds `codes` (m, K, L) of K crops of each image, int16 or, for more codes than that, int32. The crops of
    an image depend on its place in the list alone. groups: norm groups of the tokenizer, as for `load_tokenizer`;
    img_size: side of the crops that a user expects, which follows from the scales.
    Everything else, and more errors, are as for `write_cache`. Raises CheckpointError and ConfigError for the
    tokenizer's file.
    """
    tokenizer = load_tokenizer(tokenizer_file, groups=groups).to(usable_device(settings.device))
    side = scales.side * tokenizer.stride
    if img_size not in (None, side):
        raise ConfigError(
            f"img_size is {img_size}, but these scales and {tokenizer_file} make images of {side} pixels a side; give "
            f"that, or the model for {img_size} with --config."
        )
    content = ImageCrops(tokenizer, weights_sha256(tokenizer_file), scales, settings.crops)
    return write_cache(images, content, folder, settings, on_images, on_notice, processes)


class ImageCrops:
    """See `himar.data.shard_writer.Content`: codes of crops."""

    kind: Kind = "codes"
    tensors: tuple[str, ...] = ("codes",)

    def __init__(self, tokenizer: Tokenizer, vae_sha256: str, scales: Scales, crops: int) -> None:
        self._tokenizer, self._scales, self._crops = tokenizer, scales, crops
        self._size = scales.side * tokenizer.stride
        self._dtype = torch.int16 if tokenizer.config.vocab <= _SMALL else torch.int32
        self.described: Mapping[str, Any] = {
            "vae_sha256": vae_sha256,
            "img_size": self._size,
            "channels": tokenizer.config.latent_channels,
            "stride": tokenizer.stride,
            "dtype": str(self._dtype).removeprefix("torch."),
            "patch_nums": scales.sides,
            "crops": crops,
        }

    def read(self, path: Path, row: int) -> Picture:
        """Read an image's crops, (K, H, H, 3)."""
        middle = np.full((1, 2), 0.5)
        places = np.random.default_rng([0, row]).random((self._crops, 2)) if self._crops else middle
        return read_crops(path, self._size, places)

    def encode(self, pixels: NDArray[np.uint8], first: str, last: str) -> tuple[Tensor, ...]:
        """Encode crops (m, K, H, H, 3), those of an image at once."""
        parts = [encode_crops(self._tokenizer, self._scales, crops) for crops in pixels]
        return (torch.stack(parts).to(self._dtype),)

    def beside(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return nothing: there are no captions."""
        return {}


class CachedCodes(CachedImages):
    """Codes of n images, as `himar cache-latents` wrote them; see `himar.data.codes.codes.Codes`."""

    kind = "codes"

    def __init__(
        self,
        folder: str | Path,
        quantizer: Quantizer | None = None,
        *,
        vae_sha256: str | None = None,
        scales: Scales | None = None,
    ) -> None:
        """Open a finished cache, made with this tokenizer and these scales where they are given. Raises CacheError.

        quantizer: of the tokenizer; training needs it.
        """
        super().__init__(folder, vae_sha256=vae_sha256, patch_nums=None if scales is None else scales.sides)
        self.scales = Scales(self.index.patch_nums)
        if quantizer is not None:
            self.quantizer = quantizer

    @property
    def views(self) -> int:
        """Crops of each image."""
        return max(1, self.index.crops)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See CachedImages.shapes."""
        return {"codes": (self.views, Scales(self.index.patch_nums).tokens)}

    def draw(self, chosen: Tensor, needed: Collection[slice], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the chosen images' codes (B, L) and labels (B,), of one crop of each at random; 0 where not needed."""
        views = torch.randint(self.views, (len(chosen),), generator=generator)
        codes = torch.zeros(len(chosen), self.scales.tokens, dtype=torch.int64)
        for part in needed:
            found = self.stored(chosen[part], views[part].tolist())
            codes[part] = torch.cat([each[0] for each in found])[:, 0].long()
        return codes, self.labels[chosen]

    def values(self, chosen: Tensor) -> dict[str, Any]:
        """See Codes.values: a hash of each image's first codes, and how many crops there are."""
        found = torch.cat([each[0] for each in self.stored(chosen, [0] * len(chosen))])
        return {"codes": hash_of(found), "crops": self.index.crops}
