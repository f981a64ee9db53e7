"""Draws everything random in a training step's loss, for the whole batch at once (docs/model.md §8).

Processes that share a batch draw the same numbers and take their images' part, so what is learned does not depend on
how many processes there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from himar_kernels import ConfigError
from himar_kernels.families.hi_mar.phases import HeadKind

from .config import ModelConfig
from .diffusion_draws import StartPractice, diffusion_draws


@dataclass(frozen=True)
class LossSettings:
    """What the loss draws at random.

    label_drop: probability that an image's class or text is dropped, drawn per phase; pivot_share: probability that the
    high phase of an image sees its pivots at the masked low positions (the released models reach 0.25);
    low_mask_least, low_mask_deviation: of models of classes (those from text mask by Beta(4, 1)), smallest share of
    masked low positions, and standard deviation of that share around 1; repeats: diffusion timesteps drawn per token of
    phase low and per image of phase high;
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
class PhaseDraws:
    """One phase's numbers for B images with n positions.

    dropped (B,) boolean: True where the phase sees the unconditional row; masked (B, n) boolean, m True in each row.
    t, noise, weight: diffusion timesteps, noise and loss weights for each of r repeats. For an MLP head
    (r, B, m), (r, B, m, C), (r, B, m), the masked positions in ascending order; for a DiT head (r, B), (r, B, n, C),
    (r, B).
    """

    dropped: Tensor
    masked: Tensor
    t: Tensor
    noise: Tensor
    weight: Tensor

    def part(self, images: slice) -> PhaseDraws:
        """Take some images' numbers."""
        rows = (self.dropped[images], self.masked[images])
        return PhaseDraws(*rows, self.t[:, images], self.noise[:, images], self.weight[:, images])

    def to(self, device: torch.device) -> PhaseDraws:
        """Move to a device."""
        return PhaseDraws(*(getattr(self, name).to(device) for name in PhaseDraws.__annotations__))


@dataclass(frozen=True)
class BatchDraws:
    """Both phases' numbers, and what the images show.

    low: None with a single scale; hidden (B,): True where phase high sees no pivots; shown: classes (B,), or of a model
    from text contexts (B, K, W), or the token ids (B, K) from which they are still to be made.
    """

    low: PhaseDraws | None
    high: PhaseDraws
    hidden: Tensor
    shown: Tensor

    def part(self, images: slice) -> BatchDraws:
        """Take some images' numbers."""
        low = None if self.low is None else self.low.part(images)
        return BatchDraws(low, self.high.part(images), self.hidden[images], self.shown[images])

    def to(self, device: torch.device) -> BatchDraws:
        """Move to a device."""
        low = None if self.low is None else self.low.to(device)
        return BatchDraws(low, self.high.to(device), self.hidden.to(device), self.shown.to(device))


def draw_batch(config: ModelConfig, shown: Tensor, settings: LossSettings, generator: torch.Generator) -> BatchDraws:
    """Draw a step's numbers on the CPU; shown: as BatchDraws has it. A single scale masks as phase low does.

    A model from text masks each phase by a ratio of its own from Beta(4, 1), as the paper's.
    """
    batch, low = len(shown), None
    if config.from_text:
        ratio = text_mask_ratio(generator)
    else:
        ratio = low_mask_ratio(settings.low_mask_least, settings.low_mask_deviation, generator)
    if not config.single_scale:
        masked = random_mask(batch, config.low_positions, ratio, generator)
        dropped = drop(batch, settings.label_drop, generator)
        low = _phase_draws(config, config.low_head, dropped, masked, settings, generator)
        ratio = text_mask_ratio(generator) if config.from_text else high_mask_ratio(generator)
    masked = random_mask(batch, config.high_positions, ratio, generator)
    dropped = drop(batch, settings.label_drop, generator)
    hidden = torch.rand(batch, generator=generator) >= settings.pivot_share
    high = _phase_draws(config, config.high_head, dropped, masked, settings, generator)
    return BatchDraws(low, high, hidden, shown)


def _phase_draws(
    config: ModelConfig,
    head: HeadKind,
    dropped: Tensor,
    masked: Tensor,
    settings: LossSettings,
    generator: torch.Generator,
) -> PhaseDraws:
    batch, positions = masked.shape
    rows: tuple[int, ...] = (settings.repeats, batch)
    shape: tuple[int, ...] = (positions, config.channels)
    if head == "mlp":
        rows, shape = (*rows, int(masked[0].sum())), (config.channels,)
    count = math.prod(rows)
    t, noise, weight = diffusion_draws((count, *shape), settings.start, generator)
    return PhaseDraws(dropped, masked, t.view(rows), noise.view(*rows, *shape), weight.view(rows))


def low_mask_ratio(least: float, deviation: float, generator: torch.Generator) -> float:
    """Draw phase low's share of masked positions: normal(1, deviation) truncated to [least, 1]."""
    lowest = 0.5 * (1 + math.erf((least - 1) / deviation / math.sqrt(2)))
    u = lowest + (0.5 - lowest) * torch.rand((), generator=generator, dtype=torch.float64)
    return min(max(1 + deviation * torch.special.ndtri(u).item(), least), 1.0)


def high_mask_ratio(generator: torch.Generator) -> float:
    """Draw phase high's share of masked positions: cos(u·π/2), u uniform."""
    return math.cos(torch.rand((), generator=generator).item() * math.pi / 2)


def text_mask_ratio(generator: torch.Generator) -> float:
    """Draw a phase's share of masked positions of a model from text: Beta(4, 1), by its inverse CDF u^(1/4)."""
    return torch.rand((), generator=generator, dtype=torch.float64).item() ** 0.25


def random_mask(batch: int, positions: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Return (batch, positions) boolean with ⌈ratio·positions⌉, at least 1, True at random in each row."""
    count = max(1, math.ceil(ratio * positions))
    order = torch.rand(batch, positions, generator=generator).argsort(dim=1)
    return torch.zeros(batch, positions, dtype=torch.bool).scatter_(1, order[:, :count], True)


def drop(batch: int, probability: float, generator: torch.Generator) -> Tensor:
    """Return which images (batch,) lose their class or text, each with the given probability."""
    return torch.rand(batch, generator=generator) < probability
