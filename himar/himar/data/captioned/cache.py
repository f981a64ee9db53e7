"""Caches latents of captioned images with their captions' contexts, and serves both to training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from himar_kernels import InputError

from ...device import usable_device
from ...loading.checkpoint_files import weights_sha256
from ...text.encoder import TextEncoder
from ...training.processes import Processes
from ...vae.autoencoder import AutoencoderKL
from ..cache import CacheSettings, Moments, both_scales, load_fitting_vae
from ..cache_index import CacheError, CacheIndex, Kind, Shard
from ..cache_reader import STORED, CachedImages
from ..captions import CaptionedList
from ..crop import Picture, read_square
from ..latents import sample_tokens
from ..shard_writer import OnImages, OnNotice, write_cache
from .latents import draw_captions

_AT_ONCE = 10_000
"""Captions whose tokens are counted at once."""


def cache_captioned(
    images: CaptionedList,
    vae_file: Path,
    text: Path,
    folder: Path,
    settings: CacheSettings,
    on_images: OnImages | None = None,
    on_notice: OnNotice | None = None,
    processes: Processes | None = None,
) -> CacheIndex:
    """Encode every image at both scales and every caption, and return the index of the finished cache.

    text: folder of the text tower and its tokenizer. A shard holds `high` (m, 1, 2, C, h, w) and `low`
    (m, 1, 2, C, h/2, w/2), mean and standard deviation, not flipped: captions say left and right; `contexts` (c, K, W)
    of all captions, those of an image next to each other; `first` (m + 1,), place of each image's first one, and c;
    `empty_context` (K, W), float32; and `labels` (m), all 0, and `rows` (m). Moments and contexts have the settings'
    dtype. The crop is U-ViT's: the centre square of the short side, Lanczos.

    Everything else, and more errors, are as for `write_cache`. Raises InputError before the long work for a caption
    that cannot be encoded; what is cut is told to `on_notice`.
    """
    vae = load_fitting_vae(vae_file, settings)
    device = usable_device(settings.device)
    encoder = TextEncoder.open(text, device)
    cut = _count_cut(encoder, images)
    if cut and on_notice:
        on_notice(f"{cut} captions have more than {encoder.tokenizer.length} tokens; what is beyond them is cut")
    content = CaptionedMoments(images, vae.to(device), weights_sha256(vae_file), encoder, settings)
    return write_cache(images, content, folder, settings, on_images, on_notice, processes)


def _count_cut(encoder: TextEncoder, images: CaptionedList) -> int:
    every = [caption for captions in images.captions for caption in captions]
    return sum(len(encoder.tokenizer.rows(every[at : at + _AT_ONCE])[1]) for at in range(0, len(every), _AT_ONCE))


class CaptionedMoments(Moments):
    """See `himar.data.shard_writer.Content`: moments at both scales, and contexts of all captions beside them."""

    kind: Kind = "captioned"

    def __init__(
        self,
        images: CaptionedList,
        vae: AutoencoderKL,
        vae_sha256: str,
        encoder: TextEncoder,
        settings: CacheSettings,
    ) -> None:
        super().__init__(vae, vae_sha256, settings)
        self._images, self._encoder = images, encoder
        self.described: Mapping[str, Any] = {
            **self.described,
            "text_sha256": encoder.sha256,
            "context": encoder.shape,
        }
        self._empty, _ = encoder.encode([""])

    def read(self, path: Path, row: int) -> Picture:
        """Read the centre square."""
        return read_square(path, self._settings.img_size)

    def encode(self, pixels: NDArray[np.uint8], first: str, last: str) -> tuple[Tensor, ...]:
        """Encode crops (m, H, H, 3)."""
        return tuple(self._stored(part, first, last) for part in both_scales(self._vae, pixels, flip=False))

    def beside(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Encode the captions of some images."""
        captions = [self._images.captions[row] for row in rows]
        contexts, _ = self._encoder.encode([caption for each in captions for caption in each])
        stored = contexts.to(getattr(torch, self._settings.dtype))
        if not stored.isfinite().all():
            raise InputError(
                f"contexts of the captions of {self._images.names[rows[0]]} … {self._images.names[rows[-1]]} are not "
                f"finite in {self._settings.dtype}; use float32, or another text tower."
            )
        first = torch.tensor([0, *(len(each) for each in captions)]).cumsum(0)
        return {"contexts": stored, "first": first, "empty_context": self._empty[0]}


class CachedCaptioned(CachedImages):
    """Moments of n images and contexts of their captions, as `cache_captioned` wrote them.

    high_shape and low_shape: (n, 2, C, h, w) and (n, 2, C, h/2, w/2); first (n + 1,): place of each image's first
    caption, and the number of all; empty_text (K, W). See `himar.data.captioned.latents.CaptionedLatents`.
    """

    kind = "captioned"

    def __init__(self, folder: str | Path, *, vae_sha256: str | None = None, img_size: int | None = None) -> None:
        """Open a finished cache, made with this VAE and size where they are given. Raises CacheError."""
        self._first: list[Tensor] = []
        self._contexts: dict[int, Any] = {}
        super().__init__(folder, vae_sha256=vae_sha256, img_size=img_size)
        self.high_shape, self.low_shape = ((self.index.count, *shape[1:]) for shape in self.shapes().values())
        ends = torch.tensor([0, *(int(first[-1]) for first in self._first)]).cumsum(0)
        starts = [first[:-1] + end for first, end in zip(self._first, ends, strict=False)]
        self.first = torch.cat([*starts, ends[-1:]])
        self._ends = ends
        self.empty_text: Tensor = self._file(self._shards[0]).get_tensor("empty_context")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See CachedImages.shapes."""
        high, low = self.index.sides
        channels = self.index.channels
        return {"high": (1, 2, channels, high, high), "low": (1, 2, channels, low, low)}

    @property
    def text_identity(self) -> str:
        """Hash of all captions and of what encoded them."""
        return f"{self.index.fingerprint[:16]} {self.index.text_sha256[:16]}"

    def contexts(self, captions: Tensor) -> Tensor:
        """Return the contexts (B, K, W) of captions by their place among all (B,), float32.

        Raises CacheError when a shard cannot be read any more.
        """
        numbers = torch.searchsorted(self._ends, captions, right=True) - 1
        found = []
        for number, place in zip(numbers.tolist(), (captions - self._ends[numbers]).tolist(), strict=True):
            shard = self._shards[number]
            try:
                if number not in self._contexts:
                    self._contexts[number] = self._file(shard).get_slice("contexts")
                found.append(self._contexts[number][place : place + 1])
            except SafetensorError as error:
                raise CacheError(f"{shard.file} cannot be read any more: {error}.") from error
        return torch.cat(found).float()

    def draw(self, chosen: Tensor, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sample the chosen images' tokens (B, N, C) and (B, S, C), times the scale, with the context of a caption.

        The generator gives the captions first, then the high tokens' noise, then the low tokens'.
        """
        captions = draw_captions(self.first, chosen, generator)
        high, low = zip(*self.stored(chosen, [0] * len(chosen)), strict=True)
        tokens, low_tokens = (sample_tokens(torch.cat(part)[:, 0].float(), generator) * scale for part in (high, low))
        return tokens, low_tokens, self.contexts(captions)

    def examples(self, count: int) -> Tensor:
        """See CaptionedLatents.examples."""
        return self.contexts(self.first[:-1][torch.arange(count) % len(self)])

    def __getstate__(self) -> dict[str, Any]:
        """See CachedImages."""
        return {**super().__getstate__(), "_contexts": {}}

    def _checked_labels(self, shard: Shard) -> Tensor:
        labels = super()._checked_labels(shard)
        file = self._file(shard)
        try:
            first: Tensor = file.get_tensor("first")
            part = file.get_slice("contexts")
            found, dtype = tuple(part.get_shape()), part.get_dtype()
            empty = tuple(file.get_slice("empty_context").get_shape())
        except SafetensorError as error:
            raise CacheError(f"{self.folder / str(shard.file)} is not a shard of {self.kind}: {error}.") from error
        whole = first.shape == (shard.count + 1,) and int(first[0]) == 0 and int(first.diff().min()) > 0
        wanted = (int(first[-1]), *self.index.context)
        if not whole or (found, dtype, empty) != (wanted, STORED[self.index.dtype], self.index.context):
            raise CacheError(
                f"{shard.file}: contexts are {dtype} of shape {found}, but the index requires "
                f"{STORED[self.index.dtype]} of (c, {self.index.context[0]}, {self.index.context[1]}) and one at least "
                f"for each of {shard.count} images; make the cache again."
            )
        self._first.append(first)
        return labels
