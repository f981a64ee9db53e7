"""Defines what training reads: latents of images by index, in an order that a seed repeats, and their fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from himar_kernels import InputError

from ..families.hi_mar.config import ModelConfig
from ..training.settings import TrainingSettings
from ..vae.autoencoder import made_of_patches

_FINGERPRINT_IMAGES = 16


class Latents(Protocol):
    """Images as latents. A `LatentSet` in memory, `CachedLatents` on disk, `ImageLatents` from pixels, or your own."""

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


class ChosenImages:
    """Which images a step trains on: the same for the same settings, seed and step."""

    def __init__(self, count: int, settings: TrainingSettings, seed: int) -> None:
        self._count, self._batch, self._order, self._seed = count, settings.batch, settings.order, seed
        self._epoch, self._shuffled = -1, torch.empty(0, dtype=torch.long)

    def at(self, step: int, generator: torch.Generator) -> Tensor:
        """Return the images (B,) of a step; only the order "draws" draws from the generator."""
        if self._order == "draws":
            return torch.randint(self._count, (self._batch,), generator=generator)
        places = range(step * self._batch, (step + 1) * self._batch)
        return torch.stack([self._shuffle(place // self._count)[place % self._count] for place in places])

    def _shuffle(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self._seed + 1_000_003 * (epoch + 1))
            self._epoch, self._shuffled = epoch, torch.randperm(self._count, generator=generator)
        return self._shuffled


def class_names_of(latents: Latents, classes: int | None = None) -> tuple[str, ...] | None:
    """Return the names of a data set's classes, None where it has none.

    classes: of a model; as many names come out, "" for classes that the data does not have.
    """
    names = getattr(latents, "class_names", None)
    if names is None:
        return None
    wanted = len(names) if classes is None else classes
    return (*names, *[""] * (wanted - len(names)))[:wanted]


def fingerprint(latents: Latents) -> dict[str, object]:
    """Return what tells one data set from another: its size, a hash of its labels, means of some images' tokens, and
    the names of its classes where it has some.

    The means differ a little between machines, so they are compared with a tolerance.
    """
    count = len(latents.labels)
    chosen = torch.linspace(0, count - 1, min(count, _FINGERPRINT_IMAGES), dtype=torch.float64).round().long()
    high, low, _ = latents.draw(chosen, 1.0, torch.Generator().manual_seed(0))
    labels = hashlib.sha256(latents.labels.to(torch.int64).numpy().tobytes()).hexdigest()[:16]
    scales = [scale for scale in (high, low) if scale.numel()]  # data of a single scale has no low tokens
    means = [mean for scale in scales for mean in scale.double().mean(dim=(1, 2)).tolist()]
    found: dict[str, object] = {"images": count, "labels": labels, "token_means": means}
    names = class_names_of(latents)
    return found if names is None else {**found, "class_names": list(names)}


def check_fit(config: ModelConfig, latents: Latents) -> None:
    """Raise InputError unless the latents have the model's shapes and classes."""
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
    if not 0 <= int(latents.labels.min()) <= int(latents.labels.max()) < config.classes:
        raise InputError(
            f"labels run from {int(latents.labels.min())} to {int(latents.labels.max())}; "
            f"this model has the classes 0 to {config.classes - 1}."
        )
