"""Trains a transformer to tell the mean of masked tokens, before its heads learn to draw them.

The diffusion loss says little of what a text asks for: the noised token that a head sees shows most of it already, save
at the noisiest timesteps. A linear layer on the condition z sees nothing but z, so a short run of it teaches the
transformer in minutes which word changes which token. Not in the paper; for models that are trained briefly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from himar.data.latents import Latents
from himar.training.optimise import OnStep, Optimiser, Progress, Schedule

from .joint import TOWER, TOWER_RATE, with_contexts
from .loss_draws import BatchDraws, LossSettings, draw_batch
from .losses import conditions
from .model import HiMAR


@dataclass(frozen=True)
class MeansTraining:
    """How to train the transformer alone; batch: images per step."""

    schedule: Schedule
    batch: int = 64


def train_means(
    model: HiMAR, data: Latents, loss: LossSettings, training: MeansTraining, seed: int, on_step: OnStep | None = None
) -> None:
    """Train a model's transformer in place, and its text tower if it has one; the heads stay as they are.

    loss: what is masked and dropped, and which images see pivots. What is minimised is the squared error of a linear
    layer on z at the masked tokens, summed over both phases; the layers are thrown away. The same seed gives the same
    weights. Raises TrainingError when the loss stops being finite.
    """
    config, images = model.config, len(data.labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        readers = nn.ModuleList(nn.Linear(config.width, config.channels) for _ in range(2))
    named = [(name, parameter) for name, parameter in model.named_parameters() if "diffloss" not in name]
    transformer = [parameter for name, parameter in named if not name.startswith(TOWER)]
    groups: list[dict[str, Any]] = [
        {"params": [*transformer, *readers.parameters()]},
        {"params": [parameter for name, parameter in named if name.startswith(TOWER)], "rate_factor": TOWER_RATE},
    ]
    optimiser = Optimiser(groups, training.schedule)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for step in range(training.schedule.steps):
        chosen = torch.randint(images, (training.batch,), generator=generator)
        tokens, low_tokens, shown = data.draw(chosen, config.vae_scale, generator)
        draws = draw_batch(config, shown, loss, generator)
        errors = _errors(model, readers, tokens, low_tokens, draws)
        rate = optimiser.step(step, torch.stack(list(errors.values())).sum())
        if on_step:
            figures = {name: error.item() for name, error in errors.items()}
            on_step(Progress(step + 1, training.schedule.steps, training.batch, {**figures, "rate": rate}))


def _errors(
    model: HiMAR, readers: nn.ModuleList, tokens: Tensor, low_tokens: Tensor, draws: BatchDraws
) -> dict[str, Tensor]:
    draws, empty = with_contexts(model, draws)
    low, high = conditions(model, tokens, low_tokens, draws, empty)
    errors = {}
    if low is not None and draws.low is not None:
        errors["low error"] = (readers[0](low) - low_tokens)[draws.low.masked].square().mean()
    errors["high error"] = (readers[1](high) - tokens)[draws.high.masked].square().mean()
    return errors
