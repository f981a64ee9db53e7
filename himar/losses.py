"""The whole model's training loss: both phases from one batch of tokens (himar-model.md §8)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from himar_kernels import ConfigError

from .diffusion_draws import StartPractice, diffusion_draws
from .head_losses import add_noise, dit_head_loss, mlp_head_loss
from .model import HiMAR

LOW_WEIGHT, HIGH_WEIGHT = 0.4, 0.6


@dataclass(frozen=True)
class LossSettings:
    """What the loss draws at random.

    label_drop: probability of the unconditional row, drawn per phase; pivot_share: probability that the high
    phase of an image sees its pivots at the masked low positions (the released models reach 0.25);
    low_mask_least, low_mask_deviation: smallest share of masked low positions, and standard deviation of that
    share around 1; repeats: diffusion timesteps drawn per token of phase low and per image of phase high;
    start: extra practice of the reverse chain's first steps, None for none as in the paper.
    """

    label_drop: float = 0.1
    pivot_share: float = 0.25
    low_mask_least: float = 0.7
    low_mask_deviation: float = 0.25
    repeats: int = 1
    start: StartPractice | None = None

    def __post_init__(self) -> None:
        for name in ("label_drop", "pivot_share", "low_mask_least"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 to 1.")
        if not self.low_mask_deviation > 0:
            raise ConfigError(f"low_mask_deviation is {self.low_mask_deviation}; it must be positive.")
        if self.repeats < 1:
            raise ConfigError(f"repeats is {self.repeats}; draw at least 1 diffusion timestep per step.")


@dataclass(frozen=True)
class Losses:
    """Scalars: the MLP head's two terms (their sum is phase low's loss), and phase high's loss."""

    low_mse: Tensor
    low_vb: Tensor
    high: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return LOW_WEIGHT * (self.low_mse + self.low_vb) + HIGH_WEIGHT * self.high


def model_losses(
    model: HiMAR,
    tokens: Tensor,
    low_tokens: Tensor,
    labels: Tensor,
    settings: LossSettings,
    generator: torch.Generator,
) -> Losses:
    """Return both phases' losses for a batch.

    Args:
        model: the model; its gradients flow from every loss, save through the pivots.
        tokens, low_tokens: (B, N, C) and (B, S, C), the same images' tokens at both resolutions.
        labels: (B,), 0 … classes-1.
        settings: probabilities and repeats.
        generator: source of every random number but dropout's, a CPU generator.
    """
    batch, low_positions = low_tokens.shape[:2]
    ratio = low_mask_ratio(settings.low_mask_least, settings.low_mask_deviation, generator)
    low_masked = random_mask(batch, low_positions, ratio, generator).to(tokens.device)
    class_row = drop_labels(labels, model.config.classes, settings.label_drop, generator)
    z = model.transformer_low(class_row, low_tokens, ~low_masked)[:, :low_positions]
    low_mse, low_vb = _low_loss(model, z[low_masked], low_tokens[low_masked], settings, generator)

    high_masked = random_mask(batch, tokens.shape[1], high_mask_ratio(generator), generator).to(tokens.device)
    class_row = drop_labels(labels, model.config.classes, settings.label_drop, generator)
    hidden = torch.rand(batch, generator=generator).to(tokens.device) >= settings.pivot_share
    without_pivot = (~low_masked | hidden[:, None])[..., None]
    low_rows = torch.where(without_pivot, model.cond_proj(model.cond_tokens), model.cond_z_proj(z.detach()))
    z = model.run_high(class_row, low_rows, tokens, ~high_masked)[:, low_positions:]
    high = _high_loss(model, z, tokens, high_masked, settings, generator)
    return Losses(low_mse, low_vb, high)


def _low_loss(
    model: HiMAR, z: Tensor, target: Tensor, settings: LossSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Means of both terms over the masked tokens: z (M, D), target (M, C)."""
    z, target = z.repeat(settings.repeats, 1), target.repeat(settings.repeats, 1)
    t, noise, weight = diffusion_draws(target, settings.start, generator)
    prediction = model.mlp_head(add_noise(target, noise, t), t, z)
    mse, vb = mlp_head_loss(prediction, target, noise, t)
    # Practised rows are no samples of the forward process, which the bound is about.
    return (weight * mse).mean(), (vb * (weight == 1)).mean()


def _high_loss(
    model: HiMAR, z: Tensor, target: Tensor, masked: Tensor, settings: LossSettings, generator: torch.Generator
) -> Tensor:
    """Mean over images: z (B, N, D), target (B, N, C), masked (B, N)."""
    condition = model.dit_head.condition(z).repeat(settings.repeats, 1, 1)
    target, masked = target.repeat(settings.repeats, 1, 1), masked.repeat(settings.repeats, 1)
    t, noise, weight = diffusion_draws(target, settings.start, generator)
    prediction = model.dit_head.denoise(add_noise(target, noise, t), t, condition)
    return (weight * dit_head_loss(prediction, noise, masked)).mean()


def low_mask_ratio(least: float, deviation: float, generator: torch.Generator) -> float:
    """Draw phase low's share of masked positions: normal(1, deviation) truncated to [least, 1]."""
    lowest = 0.5 * (1 + math.erf((least - 1) / deviation / math.sqrt(2)))
    u = lowest + (0.5 - lowest) * torch.rand((), generator=generator, dtype=torch.float64)
    return min(max(1 + deviation * torch.special.ndtri(u).item(), least), 1.0)


def high_mask_ratio(generator: torch.Generator) -> float:
    """Draw phase high's share of masked positions: cos(u·π/2), u uniform."""
    return math.cos(torch.rand((), generator=generator).item() * math.pi / 2)


def random_mask(batch: int, positions: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Return (batch, positions) boolean with ⌈ratio·positions⌉, at least 1, True at random in each row."""
    count = max(1, math.ceil(ratio * positions))
    order = torch.rand(batch, positions, generator=generator).argsort(dim=1)
    return torch.zeros(batch, positions, dtype=torch.bool).scatter_(1, order[:, :count], True)


def drop_labels(labels: Tensor, classes: int, probability: float, generator: torch.Generator) -> Tensor:
    """Replace labels (B,) by the unconditional row, `classes`, each with the given probability."""
    dropped = torch.rand(len(labels), generator=generator).to(labels.device) < probability
    return torch.where(dropped, classes, labels)
