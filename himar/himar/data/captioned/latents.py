"""Defines what training from captioned images reads: latents, and for each image the texts of its captions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from himar_kernels import InputError

from ..latents import Latents, sample_tokens


class CaptionedLatents(Latents, Protocol):
    """Latents whose `draw` gives texts instead of labels: of each image one of its captions, drawn uniformly.

    A text is its context (K, W), or its token ids (K,) where the text tower is trained with the model. `labels` are 0.
    """

    @property
    def empty_text(self) -> Tensor:
        """The empty text, a context (K, W) or token ids (K,)."""

    @property
    def text_identity(self) -> str:
        """Hash of all captions and of what encoded them."""

    def examples(self, count: int) -> Tensor:
        """Return the first caption of each of the first images, in turn: (count, K, W) or (count, K)."""


@dataclass(frozen=True)
class CaptionedSet:
    """Captioned latents in memory, VAE scale not applied.

    high (n, 2, C, h, w) and low (n, 2, C, s, s): mean and standard deviation; texts (c, K, W) contexts, or (c, K) int64
    token ids, those of an image next to each other; first (n+1,): place of each image's first text, and c; empty_text:
    (K, W) or (K,). Images are not mirrored: captions say left and right.
    """

    high: Tensor
    low: Tensor
    texts: Tensor
    first: Tensor
    empty_text: Tensor

    def __post_init__(self) -> None:
        if not len(self.high) == len(self.low) == len(self.first) - 1 or not len(self.high):
            raise InputError(
                f"{len(self.high)} latents, {len(self.low)} low-resolution latents and texts of {len(self.first) - 1} "
                f"images were given; give one of each per image, and at least one image."
            )
        counts = self.first.diff()
        if int(self.first[0]) or int(self.first[-1]) != len(self.texts) or int(counts.min()) < 1:
            raise InputError(
                f"first runs from {int(self.first[0])} to {int(self.first[-1])} for {len(self.texts)} texts; it must "
                f"run from 0 to their number, and every image have one at least."
            )
        if self.texts.shape[1:] != self.empty_text.shape:
            raise InputError(
                f"texts have shape {tuple(self.texts.shape)} and the empty text {tuple(self.empty_text.shape)}; encode "
                f"both alike."
            )

    @property
    def labels(self) -> Tensor:
        """Zeros (n,): there are no classes."""
        return torch.zeros(len(self.high), dtype=torch.int64)

    @property
    def high_shape(self) -> tuple[int, ...]:
        """Shape of `high`."""
        return tuple(self.high.shape)

    @property
    def low_shape(self) -> tuple[int, ...]:
        """Shape of `low`."""
        return tuple(self.low.shape)

    @property
    def text_identity(self) -> str:
        """Hash of all texts and of how many each image has."""
        digest = hashlib.sha256()
        for part in (self.texts, self.first, self.empty_text):
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def draw(self, chosen: Tensor, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sample the chosen images' tokens (B, N, C) and (B, S, C), times the scale, with a text of each."""
        rows = draw_captions(self.first, chosen, generator)
        high, low = (sample_tokens(part[chosen], generator) * scale for part in (self.high, self.low))
        return high, low, self.texts[rows]

    def examples(self, count: int) -> Tensor:
        """See CaptionedLatents.examples."""
        return self.texts[self.first[:-1][torch.arange(count) % len(self.high)]]


def draw_captions(first: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """Return a caption's place (B,) for each chosen image, uniformly among those that it has.

    first (n+1,): place of each image's first caption, and the number of all. One number per image is drawn.
    """
    start = first[chosen]
    share = torch.rand(len(chosen), generator=generator, dtype=torch.float64)
    return start + (share * (first[chosen + 1] - start)).long()
