"""Trains a small text tower to read: to name what each text says, before a model learns to draw from its rows.

A model that is trained with a new tower learns layouts and colours from it, and digits hardly: what the loss says of a
word is lost in the noise of diffusion. A tower that can already read gives rows that differ by what texts say.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from himar_kernels import InputError

from ..training.optimise import OnStep, Optimiser, Progress, Schedule
from .tower import TextConfig, TextTower


@dataclass(frozen=True)
class ReadingTraining:
    """How to train a tower to read; batch: texts per step."""

    schedule: Schedule
    batch: int = 128


def train_to_read(
    config: TextConfig,
    texts: Tensor,
    facts: Tensor,
    training: ReadingTraining,
    seed: int,
    on_step: OnStep | None = None,
) -> TextTower:
    """Train a new tower until linear layers on a text's last row name its facts; the layers are thrown away.

    texts (c, K): token ids, K the tower's positions; facts (c, k): k whole numbers from 0 that each text says, unequal
    ones for unequal meanings. The same seed gives the same tower. Raises InputError unless every text has its facts,
    TrainingError when the loss stops being finite.
    """
    if facts.ndim != 2 or len(facts) != len(texts) or not facts.numel() or int(facts.min()) < 0:
        raise InputError(
            f"{len(texts)} texts came with facts of shape {tuple(facts.shape)}; give each text the same number of "
            f"whole numbers from 0."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = TextTower(config)
        readers = nn.ModuleList(nn.Linear(config.width, int(column.max()) + 1) for column in facts.T)
    generator = torch.Generator().manual_seed(seed)
    optimiser = Optimiser([*tower.parameters(), *readers.parameters()], training.schedule, clip=1.0)
    for step in range(training.schedule.steps):
        chosen = torch.randint(len(texts), (training.batch,), generator=generator)
        last = tower(texts[chosen])[:, -1]
        read = [reader(last) for reader in readers]
        loss = torch.stack([F.cross_entropy(*pair) for pair in zip(read, facts[chosen].T, strict=True)]).sum()
        rate = optimiser.step(step, loss)
        if on_step:
            right = torch.stack([found.argmax(dim=1) for found in read], dim=1) == facts[chosen]
            figures = {"read": right.float().mean().item(), "loss": loss.item(), "rate": rate}
            on_step(Progress(step + 1, training.schedule.steps, training.batch, figures))
    return tower.eval()
