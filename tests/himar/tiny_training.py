"""A training small enough for tests, shared by the test files and by the processes that they start."""

from dataclasses import replace
from typing import Any

import torch

from himar.data.latents import LatentSet
from himar.families.hi_mar.config import ModelConfig
from himar.families.hi_mar.model import HiMAR
from himar.families.hi_mar.training_settings import TrainingSettings
from himar.training.optimise import Schedule
from himar_kernels.families.hi_mar import SamplingConfig

TINY = ModelConfig(
    width=32, enc_depth=1, dec_depth=1, heads=2, classes=10, buffer=2, cond_scale=2, img_size=16, vae_stride=4,
    channels=4, mlp_depth=1, mlp_width=32, dit_depth=1, dit_width=32, dit_heads=2, vae_scale=1.0,
    sampling={"default": SamplingConfig(low_steps=2, high_steps=2, low_diffusion_steps=4, high_diffusion_steps=4)},
)  # fmt: skip
SETTINGS = TrainingSettings(
    schedule=Schedule(steps=12, peak=3e-3, warmup=2), batch=8, ema=0.9, dropout=0.1, snapshot_every=5
)


def latents(n: int = 24) -> LatentSet:
    generator = torch.Generator().manual_seed(0)
    high = torch.randn(n, 2, 4, 4, 4, generator=generator)
    low = torch.randn(n, 2, 4, 2, 2, generator=generator)
    high[:, 1], low[:, 1] = 0.1, 0.1
    return LatentSet(high, low, torch.arange(n) % 10)


def settings(steps: int | None = None, **changes: Any) -> TrainingSettings:
    changed = replace(SETTINGS, **changes)
    return changed if steps is None else replace(changed, schedule=replace(changed.schedule, steps=steps))


def model(dropout: float = 0.1) -> HiMAR:
    return HiMAR(TINY, dropout)
