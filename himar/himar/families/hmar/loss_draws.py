"""Everything random in a training step of either phase, drawn for the whole batch at once on the CPU (§7).

Processes that share a batch draw the same numbers and take their images' part, so what is learned does not depend on
how many processes there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from himar_kernels import ConfigError
from himar_kernels.families.hmar import Scales

from .config import ModelConfig

VALIDATION_RATIO = 0.5
"""Share of masked cells at which the masked network is validated."""


@dataclass(frozen=True)
class LossSettings:
    """What the losses draw at random.

    label_drop: probability of the unconditional row; depth_drop: rate of stochastic depth at the last block, None for
    the released 0.1·D/24; it rises linearly from 0 over the blocks.
    """

    label_drop: float = 0.1
    depth_drop: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.label_drop <= 1:
            raise ConfigError(f"label_drop is {self.label_drop}; it must be 0 to 1.")
        if self.depth_drop is not None and not 0 <= self.depth_drop < 1:
            raise ConfigError(f"depth_drop is {self.depth_drop}; it must be at least 0 and below 1.")


@dataclass(frozen=True)
class BatchDraws:
    """A step's numbers for B images.

    class_row (B,): class, or `classes` where the label is dropped; kept (D, 2, B): factors of both branches of each
    block, None where none is ever dropped; masked: boolean (L,), the cells that the masked network predicts.
    """

    class_row: Tensor
    kept: Tensor | None
    masked: Tensor

    def part(self, images: slice) -> BatchDraws:
        """Take some images' numbers; masks are shared by the batch."""
        return BatchDraws(self.class_row[images], None if self.kept is None else self.kept[..., images], self.masked)

    def to(self, device: torch.device) -> BatchDraws:
        """Move to a device."""
        kept = None if self.kept is None else self.kept.to(device)
        return BatchDraws(self.class_row.to(device), kept, self.masked.to(device))


def draw_batch(config: ModelConfig, labels: Tensor, settings: LossSettings, generator: torch.Generator) -> BatchDraws:
    """Draw a step's numbers: labels (B,), 0 … classes-1."""
    dropped = torch.rand(len(labels), generator=generator) < settings.label_drop
    class_row = torch.where(dropped, config.classes, labels)
    kept = depth_factors(config.depth, len(labels), settings.depth_drop, generator)
    ratio = torch.rand((), generator=generator).item()
    return BatchDraws(class_row, kept, random_mask(config.scales, ratio, generator))


def random_mask(scales: Scales, ratio: float, generator: torch.Generator) -> Tensor:
    """Return boolean (L,): ⌈ratio·T_s⌉ cells, at least one, at random of each scale s ≥ 1; none of scale 0."""
    masked = torch.zeros(scales.tokens, dtype=torch.bool)
    for scale in range(1, len(scales)):
        cells = scales.cells[scale]
        chosen = torch.randperm(cells, generator=generator)[: max(1, math.ceil(ratio * cells))]
        masked[scales.span(scale)][chosen] = True
    return masked


def depth_factors(depth: int, batch: int, rate: float | None, generator: torch.Generator) -> Tensor | None:
    """Return factors (D, 2, B) of stochastic depth: 0 where an image drops a branch, else 1/keep.

    Attention and feed-forward of a block are drawn by themselves. rate: see `LossSettings.depth_drop`; None of them is
    dropped at 0, and then None is returned.
    """
    last = 0.1 * depth / 24 if rate is None else rate
    if not last:
        return None
    keep = 1 - torch.linspace(0, last, depth)[:, None, None]
    return (torch.rand(depth, 2, batch, generator=generator) < keep) / keep
