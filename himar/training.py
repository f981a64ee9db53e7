"""Trains a Hi-MAR model on cached latents, on one machine (himar-model.md §8)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from himar_kernels import ConfigError, InputError

from .loss_draws import LossSettings
from .losses import model_losses
from .model import HiMAR, initialise
from .optimise import OnStep, Optimiser, Progress, Schedule

OnSnapshot = Callable[[HiMAR, int], None]


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; the defaults are the paper's where a small run allows them.

    schedule: steps and learning rate; batch: images per step; ema: decay of the averaged weights;
    weight_decay: of the transformer's matrices; clip: largest gradient norm; dropout: of the transformer;
    snapshot_every: steps between calls of `on_snapshot`, which the last step calls too.
    """

    schedule: Schedule
    batch: int
    ema: float = 0.9999
    weight_decay: float = 0.02
    clip: float = 3.0
    dropout: float = 0.1
    snapshot_every: int = 1000
    loss: LossSettings = field(default_factory=LossSettings)

    def __post_init__(self) -> None:
        for name in ("batch", "snapshot_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("ema", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1.")


@dataclass(frozen=True)
class LatentSet:
    """Cached latents of n images at both resolutions, VAE scale not applied.

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

    def draw(self, chosen: Tensor, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sample the chosen images' tokens (B, N, C) and (B, S, C), times the scale, with their labels."""
        high, low = (_sample(part[chosen], generator) * scale for part in (self.high, self.low))
        return high, low, self.labels[chosen]


def train_model(
    model: HiMAR,
    latents: LatentSet,
    settings: TrainingSettings,
    seed: int,
    on_step: OnStep | None = None,
    on_snapshot: OnSnapshot | None = None,
) -> HiMAR:
    """Train `model` from new weights and return the averaged (EMA) model; a seed gives the same weights.

    `on_snapshot` gets the averaged model in eval mode and the number of steps done; it must not change it.
    Raises TrainingError when a loss or gradient stops being finite, InputError when the latents do not fit.
    """
    _check_fit(model, latents)
    initialise(model, seed).train()
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    optimiser = Optimiser(parameter_groups(model, settings.weight_decay), settings.schedule, settings.clip)
    generator = torch.Generator().manual_seed(seed)
    steps = settings.schedule.steps
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # Dropout draws from the global generator.
        for step in range(steps):
            chosen = torch.randint(len(latents.labels), (settings.batch,), generator=generator)
            tokens, low_tokens, labels = latents.draw(chosen, model.config.vae_scale, generator)
            losses = model_losses(model, tokens, low_tokens, labels, settings.loss, generator)
            rate = optimiser.step(step, losses.total)
            # A short run's average must forget its first weights sooner than the decay alone would.
            update_average(averaged, model, min(settings.ema, (step + 1) / (step + 10)))
            if on_step:
                figures = {
                    "low mse": losses.low_mse.item(),
                    "low vb": losses.low_vb.item(),
                    "high mse": losses.high.item(),
                    "rate": rate,
                }
                on_step(Progress(step + 1, steps, settings.batch, figures))
            if on_snapshot and ((step + 1) % settings.snapshot_every == 0 or step + 1 == steps):
                on_snapshot(averaged, step + 1)
    return averaged


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters: weight decay for matrices of the transformer, none for biases, 1-D and both heads."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or name.endswith(".bias") or "diffloss" in name
        (others if plain else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


@torch.no_grad()
def update_average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged parameters towards the model's by 1 - decay."""
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)


def _sample(moments: Tensor, generator: torch.Generator) -> Tensor:
    """Moments (B, 2, C, h, w) -> tokens (B, h·w, C) drawn from them."""
    mean, deviation = moments.unbind(1)
    latent = mean + deviation * torch.randn(mean.shape, generator=generator)
    return latent.flatten(2).transpose(1, 2)


def _check_fit(model: HiMAR, latents: LatentSet) -> None:
    config = model.config
    for name, part, side in (("high", latents.high, config.grid), ("low", latents.low, config.cond_scale)):
        wanted = (2, config.channels, side, side)
        if tuple(part.shape[1:]) != wanted:
            raise InputError(f"{name} latents have shape {tuple(part.shape)}; this model trains on (n, *{wanted}).")
    if not 0 <= int(latents.labels.min()) <= int(latents.labels.max()) < config.classes:
        raise InputError(
            f"labels run from {int(latents.labels.min())} to {int(latents.labels.max())}; "
            f"this model has the classes 0 to {config.classes - 1}."
        )
