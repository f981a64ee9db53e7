"""Serves cached latents to training by index, from memory-mapped shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from himar_kernels import InputError

from .cache_index import CacheError, CacheIndex, Shard, read_index, require_same
from .latents import sample_tokens

_STORED = {"float16": "F16", "float32": "F32"}
"""What safetensors calls the index's dtypes."""


class CachedLatents:
    """Moments of n images at both scales, as `himar cache-latents` wrote them; only what is asked for is read.

    index: what the cache says of itself; class_names: of the class numbers; labels (n,) int64: class of each image;
    high_shape and low_shape: (n, 2, C, h, w) and (n, 2, C, h/2, w/2), mean and standard deviation; flip: whether
    `draw` also gives horizontally flipped images.
    """

    def __init__(
        self, folder: str | Path, *, vae_sha256: str | None = None, img_size: int | None = None, flip: bool = True
    ) -> None:
        """Open a finished cache; vae_sha256 and img_size, where given, must be those it was made with.

        Raises CacheError when it is missing, unfinished, damaged or of another VAE or size. The shards' hashes are not
        computed here (`himar cache-latents --check` does it), their tensors' shapes are checked.
        """
        self.folder = Path(folder)
        self.index: CacheIndex = read_index(self.folder)
        self.flip = flip
        index = self.index
        if not index.complete:
            raise CacheError(
                f"{self.folder} is unfinished, {len(index.shards)} of {index.wanted_shards} shards; "
                f"run the same himar cache-latents command again."
            )
        require_same(self.folder, index, vae_sha256=vae_sha256, img_size=img_size)
        if not index.count:
            raise CacheError(f"{self.folder} holds no images; none could be read when it was made.")
        high, low = index.sides
        self.class_names = index.class_names
        self.high_shape = (index.count, 2, index.channels, high, high)
        self.low_shape = (index.count, 2, index.channels, low, low)
        self._shards = [shard for shard in index.shards if shard.file is not None]
        self._starts = torch.tensor([0] + [shard.count for shard in self._shards]).cumsum(0)
        self._open: dict[int, tuple[Any, Any]] = {}
        self.labels: Tensor = torch.cat([self._checked_labels(shard) for shard in self._shards])

    def __len__(self) -> int:
        return len(self.labels)

    def moments(self, chosen: Tensor, flipped: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return high (B, 2, C, h, w) and low (B, 2, C, h/2, w/2) of the chosen images (B,), float32.

        flipped (B,) bool says which to take mirrored; None takes all as they are. Raises InputError for an index out
        of range, CacheError when a shard cannot be read any more.
        """
        flips = [0] * len(chosen) if flipped is None else flipped.long().tolist()
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < len(self):
            raise InputError(
                f"images {int(chosen.min())} to {int(chosen.max())} were asked for; the cache has 0 to {len(self) - 1}."
            )
        numbers = torch.searchsorted(self._starts, chosen, right=True) - 1
        offsets = (chosen - self._starts[numbers]).tolist()
        high, low = [], []
        for number, offset, flip in zip(numbers.tolist(), offsets, flips, strict=True):
            high_part, low_part = self._slices(number)
            try:
                high.append(high_part[offset : offset + 1, flip : flip + 1])
                low.append(low_part[offset : offset + 1, flip : flip + 1])
            except SafetensorError as error:
                raise CacheError(f"{self._shards[number].file} cannot be read any more: {error}.") from error
        empty = [torch.empty(0, 1, *shape[1:]) for shape in (self.high_shape, self.low_shape)]
        return torch.cat(high or empty[:1])[:, 0].float(), torch.cat(low or empty[1:])[:, 0].float()

    def draw(self, chosen: Tensor, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sample the chosen images' tokens (B, N, C) and (B, S, C), times the scale, with their labels (B,).

        Each image is mirrored with probability 1/2, at both scales alike, unless `flip` is off. The generator gives the
        mirroring first (one number per image, if `flip` is on), then the high tokens' noise, then the low tokens'.
        """
        flipped = torch.rand(len(chosen), generator=generator) < 0.5 if self.flip else None
        high, low = (sample_tokens(part, generator) * scale for part in self.moments(chosen, flipped))
        return high, low, self.labels[chosen]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind, so that a data loader's workers open their own."""
        return {**self.__dict__, "_open": {}}

    def _slices(self, number: int) -> tuple[Any, Any]:
        if number not in self._open:
            file = self._file(self._shards[number])
            self._open[number] = (file.get_slice("high"), file.get_slice("low"))
        return self._open[number]

    def _checked_labels(self, shard: Shard) -> Tensor:
        file = self._file(shard)
        wanted = {
            "high": (shard.count, 2, *self.high_shape[1:]),
            "low": (shard.count, 2, *self.low_shape[1:]),
            "labels": (shard.count,),
        }
        moments = _STORED[self.index.dtype]
        dtypes = {"high": moments, "low": moments, "labels": "I64"}
        try:
            for name, shape in wanted.items():
                part = file.get_slice(name)
                found, dtype = tuple(part.get_shape()), part.get_dtype()
                if (found, dtype) != (shape, dtypes[name]):
                    raise CacheError(
                        f"{shard.file}: {name} is {dtype} of shape {found}, but the index requires {dtypes[name]} of "
                        f"shape {shape}; make the cache again."
                    )
            labels: Tensor = file.get_tensor("labels")
        except SafetensorError as error:
            raise CacheError(f"{self.folder / str(shard.file)} is not a shard of latents: {error}.") from error
        classes = len(self.index.class_names)
        if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise CacheError(
                f"{shard.file}: labels run from {int(labels.min())} to {int(labels.max())}, but the index names "
                f"{classes} classes; make the cache again."
            )
        return labels

    def _file(self, shard: Shard) -> Any:
        path = self.folder / str(shard.file)
        try:
            return safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise CacheError(
                f"{path} is missing or damaged; find out more with himar cache-latents --check."
            ) from error
