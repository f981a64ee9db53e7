"""Defines how Hi-MAR is trained: the settings that change its weights, and the paper's values of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from himar.training.optimise import Schedule
from himar.training.settings import ImageOrder, Precision, check_choices
from himar_kernels import ConfigError

from .loss_draws import LossSettings


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; the defaults are the paper's where a small run allows them.

    schedule: steps and learning rate; batch: images per step, over all processes; ema: decay of the averaged weights;
    weight_decay: of the transformer's matrices; clip: largest gradient norm; dropout: of the transformer;
    snapshot_every: steps between snapshots, and the last step makes one too; loss: what the loss draws;
    pivot_warmup: epochs over which the share of images with pivots grows from 0 to `loss.pivot_share` (§8: 100),
    0 for none; order: "draws" takes every image at random, "epochs" shuffles all and takes each once;
    precision: of the networks' matmuls; weights and losses are float32 in all.
    """

    family: ClassVar[str] = "hi_mar"
    schedule: Schedule
    batch: int
    ema: float = 0.9999
    weight_decay: float = 0.02
    clip: float = 3.0
    dropout: float = 0.1
    snapshot_every: int = 1000
    loss: LossSettings = field(default_factory=LossSettings)
    pivot_warmup: int = 0
    order: ImageOrder = "draws"
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        for name in ("batch", "snapshot_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("ema", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1.")
        for name in ("weight_decay", "pivot_warmup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be a finite number of at least 0.")
        if not 0 < self.clip < math.inf:
            raise ConfigError(f"clip is {self.clip}; it must be a finite number above 0.")
        check_choices(order=(self.order, ImageOrder), precision=(self.precision, Precision))

    def pivot_share(self, epoch: int) -> float:
        """Probability in an epoch (counted from 0) that phase high of an image sees its pivots (§8)."""
        grown = min(1.0, epoch / self.pivot_warmup) if self.pivot_warmup else 1.0
        return self.loss.pivot_share * grown


def paper_settings(images: int, batch: int = 2048, epochs: float = 800, warmup_epochs: float = 100) -> TrainingSettings:
    """Return the paper's settings (docs/model.md §8) for a set of `images`; an epoch is images/batch steps.

    The learning rate after warm-up is 1e-4·batch/256. Raises ConfigError.
    """
    if images < 1 or batch < 1 or not 0 < epochs < math.inf or not 0 <= warmup_epochs <= epochs:
        raise ConfigError(
            f"{images} images in batches of {batch} for {epochs} epochs with {warmup_epochs} of warm-up: no training; "
            f"give at least one image, one per batch, and a warm-up that is no longer than the run."
        )
    steps = max(1, round(epochs * images / batch))
    warmup = min(steps, round(warmup_epochs * images / batch))
    schedule = Schedule(steps=steps, peak=1e-4 * batch / 256, warmup=warmup)
    return TrainingSettings(schedule, batch, pivot_warmup=100, order="epochs")


def text_settings() -> TrainingSettings:
    """Return the settings of a model from text (docs/model.md §11), as far as they are known.

    The paper's: AdamW at 8e-4 with weight decay 0.03, 8,000 steps of warm-up, averages at 0.9999. U-ViT's, whose
    protocol the paper follows: 256 images a step and a million steps. The rest is our choice: it is what models of
    classes have.
    """
    schedule = Schedule(steps=1_000_000, peak=8e-4, warmup=8000)
    return TrainingSettings(schedule, 256, weight_decay=0.03, pivot_warmup=100, order="epochs")


def changed_settings(
    settings: TrainingSettings,
    *,
    steps: int | None = None,
    warmup: int | None = None,
    rate: float | None = None,
    pivot_share: float | None = None,
    **changes: Any,
) -> TrainingSettings:
    """Return a copy with changes applied; None leaves a value as it is.

    steps, warmup and rate are the schedule's; steps alone shorten the warm-up to a tenth of them where it is longer.
    """
    schedule = settings.schedule
    if steps is not None:
        schedule = replace(schedule, steps=steps, warmup=min(schedule.warmup, steps // 10))
    if warmup is not None:
        schedule = replace(schedule, warmup=warmup)
    if rate is not None:
        schedule = replace(schedule, peak=rate)
    loss = settings.loss if pivot_share is None else replace(settings.loss, pivot_share=pivot_share)
    others = {name: value for name, value in changes.items() if value is not None}
    return replace(settings, schedule=schedule, loss=loss, **others)
