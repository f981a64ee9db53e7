"""Defines how HMAR is trained: the settings of both phases that change its weights, and the released recipes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from himar.training.settings import ImageOrder, Precision, asked_steps, check_choices
from himar_kernels import ConfigError

from .loss_draws import LossSettings
from .losses import Weighting
from .model import Network
from .optimisation import CLIP, Schedule

WARMUP = 50
"""A run's steps over those of its warm-up."""


@dataclass(frozen=True)
class TrainingSettings:
    """How to train one phase; the defaults are the released recipes'.

    schedule: steps, learning rate and weight decay; batch: images per step, over all processes; phase: which network
    learns; weighting: of the scales in the next-scale loss; gate: factor on the first weights of the gates; clip:
    largest gradient norm; snapshot_every: steps between snapshots, and the last step makes one too; loss: what the loss
    draws; order: "draws" takes every image at random, "epochs" shuffles all and takes each once; precision: of the
    networks' matmuls; weights and losses are float32 in all.
    """

    family: ClassVar[str] = "hmar"
    schedule: Schedule
    batch: int
    phase: Network = "next-scale"
    weighting: Weighting = "lognorm"
    gate: float = 1e-3
    clip: float = CLIP
    snapshot_every: int = 1000
    loss: LossSettings = field(default_factory=LossSettings)
    order: ImageOrder = "epochs"
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        for name in ("batch", "snapshot_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("clip", "gate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be a finite number above 0.")
        check_choices(
            phase=(self.phase, Network),
            weighting=(self.weighting, Weighting),
            order=(self.order, ImageOrder),
            precision=(self.precision, Precision),
        )


@dataclass(frozen=True)
class _Recipe:
    """epochs: of the next-scale phase; base: learning rate at 256 images; end: its last share; others as above."""

    batch: int
    epochs: int
    base: float
    end: float
    decay_end: float
    gate: float


MASKED_EPOCHS = 100
_DECAY = 0.05
_RECIPES = {
    16: _Recipe(768, 200, 1e-4, 0.1, 0.05, 1e-3),
    20: _Recipe(768, 250, 1e-4, 0.1, 0.05, 1e-3),
    24: _Recipe(768, 350, 0.8e-4, 0.01, 0.05, 1e-4),
    30: _Recipe(1024, 350, 0.8e-4, 0.01, 0.08, 1e-5),
}


def released_settings(depth: int, phase: Network, images: int, batch: int | None = None) -> TrainingSettings:
    """Return the released settings of a phase (docs/hmar-model.md §7) for a set of `images`.

    depth: of the model; the recipe is that of the deepest released model that is no deeper, d16's for shallower ones.
    batch: None takes the recipe's; the peak of the learning rate is in proportion to it.
    """
    recipe = _RECIPES[max((each for each in _RECIPES if each <= depth), default=min(_RECIPES))]
    batch = batch or recipe.batch
    epochs = MASKED_EPOCHS if phase == "masked" else recipe.epochs
    steps = max(1, round(epochs * images / batch))
    peak = recipe.base * batch / 256
    schedule = Schedule(steps, peak, steps // WARMUP, recipe.end, _DECAY, recipe.decay_end)
    return TrainingSettings(schedule, batch, phase, gate=recipe.gate)


def changed_settings(settings: TrainingSettings, images: int, options: Mapping[str, Any]) -> TrainingSettings:
    """Return a copy with the options of `himar train` applied; None leaves a value as it is.

    images: how many an epoch has. Another number of steps has its warm-up in proportion; a weight decay without one for
    the end stays as it is. Raises ConfigError.
    """
    schedule = settings.schedule
    steps = asked_steps(options, images, settings.batch)
    if "steps" in steps:
        schedule = replace(schedule, steps=steps["steps"], warmup=steps["steps"] // WARMUP)
    if options["weight_decay"] is not None:
        schedule = replace(schedule, decay=options["weight_decay"], decay_end=options["weight_decay"])
    given = {
        "warmup": steps.get("warmup"),
        "peak": options["rate"],
        "end": options["lr_end"],
        "decay_end": options["weight_decay_end"],
    }
    schedule = replace(schedule, **{name: value for name, value in given.items() if value is not None})
    drawn = {name: options[name] for name in ("label_drop", "depth_drop") if options[name] is not None}
    others = {
        "batch": options["batch"],
        "weighting": options["weighting"],
        "gate": options["gate_init"],
        "clip": options["clip"],
        "snapshot_every": options["snapshot_every"],
        "precision": options["precision"],
    }
    changes = {name: value for name, value in others.items() if value is not None}
    return replace(settings, schedule=schedule, loss=replace(settings.loss, **drawn), **changes)
