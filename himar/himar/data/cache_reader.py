"""Serves cached latents or codes to training by index, from memory-mapped shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from himar_kernels import InputError

from .cache_index import CacheError, CacheIndex, Kind, Shard, read_index, require_kind, require_same
from .latents import sample_tokens

STORED = {"float16": "F16", "float32": "F32", "int16": "I16", "int32": "I32"}
"""What safetensors calls the index's dtypes."""


class CachedImages:
    """What a cache holds of n images; only what is asked for is read.

    index: what the cache says of itself; class_names: of the class numbers; labels (n,) int64: class of each image.
    A kind of cache says its `kind`, and by `shapes` the tensors that it has of an image.
    """

    kind: ClassVar[Kind]

    def __init__(self, folder: str | Path, **wanted: Any) -> None:
        """Open a finished cache; `wanted` values of the index, where they are not None, must be those it was made with.

        Raises CacheError when it is missing, unfinished, damaged, of another kind or made otherwise. The shards' hashes
        are not computed here (`himar cache-latents --check` does it), their tensors' shapes are checked.
        """
        self.folder = Path(folder)
        self.index: CacheIndex = read_index(self.folder)
        index = self.index
        require_kind(self.folder, index, self.kind)
        if not index.complete:
            raise CacheError(
                f"{self.folder} is unfinished, {len(index.shards)} of {index.wanted_shards} shards; "
                f"run the same himar cache-latents command again."
            )
        require_same(self.folder, index, **wanted)
        if not index.count:
            raise CacheError(f"{self.folder} holds no images; none could be read when it was made.")
        self.class_names = index.class_names
        self._shards = [shard for shard in index.shards if shard.file is not None]
        self._starts = torch.tensor([0] + [shard.count for shard in self._shards]).cumsum(0)
        self._open: dict[int, tuple[Any, ...]] = {}
        self.labels: Tensor = torch.cat([self._checked_labels(shard) for shard in self._shards])

    def __len__(self) -> int:
        return len(self.labels)

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Return what each of the tensors has of one image."""
        raise NotImplementedError

    def stored(self, chosen: Tensor, views: list[int]) -> list[tuple[Tensor, ...]]:
        """Return what each tensor has of the chosen images (B,), of each the view that is named: (1, 1, …) each.

        Raises InputError for an index out of range, CacheError when a shard cannot be read any more.
        """
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < len(self):
            raise InputError(
                f"images {int(chosen.min())} to {int(chosen.max())} were asked for; the cache has 0 to {len(self) - 1}."
            )
        numbers = torch.searchsorted(self._starts, chosen, right=True) - 1
        offsets = (chosen - self._starts[numbers]).tolist()
        found = []
        for number, offset, view in zip(numbers.tolist(), offsets, views, strict=True):
            slices = self._slices(number)
            try:
                found.append(tuple(part[offset : offset + 1, view : view + 1] for part in slices))
            except SafetensorError as error:
                raise CacheError(f"{self._shards[number].file} cannot be read any more: {error}.") from error
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind, so that a data loader's workers open their own."""
        return {**self.__dict__, "_open": {}}

    def _slices(self, number: int) -> tuple[Any, ...]:
        if number not in self._open:
            file = self._file(self._shards[number])
            self._open[number] = tuple(file.get_slice(name) for name in self.shapes())
        return self._open[number]

    def _checked_labels(self, shard: Shard) -> Tensor:
        file = self._file(shard)
        wanted = {name: (shard.count, *shape) for name, shape in self.shapes().items()} | {"labels": (shard.count,)}
        dtypes = dict.fromkeys(wanted, STORED[self.index.dtype]) | {"labels": "I64"}
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
            raise CacheError(f"{self.folder / str(shard.file)} is not a shard of {self.kind}: {error}.") from error
        classes = max(1, len(self.index.class_names))  # images with captions have none, and labels of 0
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


class CachedLatents(CachedImages):
    """Moments of n images at both scales, as `himar cache-latents` wrote them.

    high_shape and low_shape: (n, 2, C, h, w) and (n, 2, C, h/2, w/2), mean and standard deviation; flip: whether
    `draw` also gives horizontally flipped images. See `CachedImages`.
    """

    kind = "latents"

    def __init__(
        self, folder: str | Path, *, vae_sha256: str | None = None, img_size: int | None = None, flip: bool = True
    ) -> None:
        """Open a finished cache, made with this VAE and size where they are given. Raises CacheError."""
        super().__init__(folder, vae_sha256=vae_sha256, img_size=img_size)
        self.flip = flip
        self.high_shape, self.low_shape = ((self.index.count, *shape[1:]) for shape in self.shapes().values())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See CachedImages.shapes; plain and flipped."""
        high, low = self.index.sides
        channels = self.index.channels
        return {"high": (2, 2, channels, high, high), "low": (2, 2, channels, low, low)}

    def moments(self, chosen: Tensor, flipped: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return high (B, 2, C, h, w) and low (B, 2, C, h/2, w/2) of the chosen images (B,), float32.

        flipped (B,) bool says which to take mirrored; None takes all as they are. Raises as `stored` does.
        """
        flips = [0] * len(chosen) if flipped is None else flipped.long().tolist()
        found = self.stored(chosen, flips)
        high, low = zip(*found, strict=True) if found else ((), ())
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
