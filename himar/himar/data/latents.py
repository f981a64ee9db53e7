"""Defines what Hi-MAR's training reads: latents of images by index, and their fingerprint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from himar_kernels import InputError

from ..families.hi_mar.config import ModelConfig
from ..vae.autoencoder import made_of_patches
from .order import check_classes, label_fingerprint, some_images


class Latents(Protocol):
    """Images as latents. A `LatentSet` in memory, `CachedLatents` on disk, `ImageLatents` from pixels, or your own.

    Those with captions are `himar.data.captioned.latents.CaptionedLatents`.
    """

    @property
    def labels(self) -> Tensor:
        """Class of each of the n images (n,), integers from 0."""

    @property
    def high_shape(self) -> tuple[int, ...]:
        """(n, 2, C, h, w): mean and standard deviation of the latents."""

    @property
    def low_shape(self) -> tuple[int, ...]:
        """(n, 2, C, s, s): the same at half the resolution."""

    def draw(self, chosen: Tensor, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sample the chosen images' tokens (B, N, C) and (B, S, C), times the scale, with their labels (B,).

        Everything random comes from the generator, and how much of it depends on the number of images alone.
        """


@dataclass(frozen=True)
class LatentSet:
    """Latents in memory, VAE scale not applied.

    high (n, 2, C, h, w) and low (n, 2, C, s, s): mean and standard deviation; labels (n,).
    """

    high: Tensor
    low: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if not len(self.high) == len(self.low) == len(self.labels) or not len(self.labels):
            raise InputError(
                f"{len(self.high)} latents, {len(self.low)} low-resolution latents and {len(self.labels)} "
                f"labels were given; give one of each per image, and at least one image."
            )

    @property
    def high_shape(self) -> tuple[int, ...]:
        """Shape of `high`."""
        return tuple(self.high.shape)

    @property
    def low_shape(self) -> tuple[int, ...]:
        """Shape of `low`."""
        return tuple(self.low.shape)

    def draw(self, chosen: Tensor, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sample the chosen images' tokens (B, N, C) and (B, S, C), times the scale, with their labels."""
        high, low = (sample_tokens(part[chosen], generator) * scale for part in (self.high, self.low))
        return high, low, self.labels[chosen]


def sample_tokens(moments: Tensor, generator: torch.Generator) -> Tensor:
    """Moments (B, 2, C, h, w) -> tokens (B, h·w, C) drawn from them."""
    mean, deviation = moments.unbind(1)
    latent = mean + deviation * torch.randn(mean.shape, generator=generator)
    return latent.flatten(2).transpose(1, 2)


def fingerprint(latents: Latents) -> dict[str, object]:
    """Return what tells one data set from another: its size, a hash of its labels, means of some images' tokens, the
    names of its classes where it has some, and a hash of its texts where it has those.

    The means differ a little between machines, so they are compared with a tolerance.
    """
    high, low, _ = latents.draw(some_images(latents), 1.0, torch.Generator().manual_seed(0))
    scales = [scale for scale in (high, low) if scale.numel()]  # data of a single scale has no low tokens
    means = [mean for scale in scales for mean in scale.double().mean(dim=(1, 2)).tolist()]
    texts = getattr(latents, "text_identity", None)
    return {**label_fingerprint(latents), "token_means": means, **({} if texts is None else {"texts": texts})}


def check_fit(config: ModelConfig, latents: Latents) -> None:
    """Raise InputError unless the latents have the model's shapes, and its classes or texts of its shape."""
    scales = [("high", latents.high_shape, config.grid)]
    if not config.single_scale:
        scales.append(("low", latents.low_shape, config.cond_scale))
    for name, shape, side in scales:
        wanted = (2, config.channels, side, side)
        patches = made_of_patches(config, shape[2], shape[-1] / side) if len(shape) == len(wanted) + 1 else ""
        if patches:
            raise InputError(f"{name} latents have shape {tuple(shape)}; {patches}")
        if tuple(shape[1:]) != wanted:
            raise InputError(f"{name} latents have shape {tuple(shape)}; this model trains on (n, *{wanted}).")
    _check_texts(config, getattr(latents, "empty_text", None))
    if not config.from_text:
        check_classes(latents, config.classes)


def _check_texts(config: ModelConfig, empty: Tensor | None) -> None:
    if not config.from_text:
        if empty is not None:
            raise InputError("these images have captions and no classes; this model makes images of classes.")
        return
    if empty is None:
        raise InputError(
            "these images have no captions, and this model makes images from text; cache them with himar cache-latents "
            "--captions."
        )
    wanted = (config.buffer, config.context_width)
    if empty.is_floating_point() and tuple(empty.shape) != wanted:
        raise InputError(
            f"contexts of the captions are {tuple(empty.shape)}, and this model takes {wanted}; encode them with its "
            f"text tower, or train a model of that buffer and context_width."
        )
