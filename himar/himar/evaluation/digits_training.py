"""Trains the digits classifier whose features `himar evaluate --extractor digits` uses.

It made the shipped weights, in about 25 seconds on one core:

    python -m himar.evaluation.digits_training himar/himar/weights/digits-features.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from ..data.digits import load_digits_split
from ..loading.files import write_safetensors
from ..training.optimise import Optimiser, Schedule
from .digits_extractor import DigitNetwork, shrink

SCHEDULE = Schedule(steps=1500, peak=2e-3, warmup=50, decay="cosine")
_BATCH = 64
_LARGEST_SHIFT = 1


def train_digit_network(schedule: Schedule = SCHEDULE, seed: int = 0) -> DigitNetwork:
    """Train on the 1,437 training digits, shifted by up to a pixel; a seed gives the same weights on one machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DigitNetwork()
    train, _ = load_digits_split()
    images = shrink(train.images)
    generator = torch.Generator().manual_seed(seed)
    optimiser = Optimiser(network.parameters(), schedule, clip=1.0)
    for step in range(schedule.steps):
        chosen = torch.randint(len(images), (_BATCH,), generator=generator)
        down, right = torch.randint(-_LARGEST_SHIFT, _LARGEST_SHIFT + 1, (2,), generator=generator).tolist()
        shifted = images[chosen].roll((down, right), dims=(2, 3))
        optimiser.step(step, F.cross_entropy(network(shifted)[2], train.labels[chosen]))
    return network.eval().requires_grad_(False)


if __name__ == "__main__":
    write_safetensors(Path(sys.argv[1]), train_digit_network().state_dict(), {})
