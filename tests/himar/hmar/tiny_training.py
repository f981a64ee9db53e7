"""An HMAR training small enough for tests, shared by the test files and by the processes that they start."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from himar.data.codes.codes import CodeSet
from himar.families.hmar.config import ModelConfig, resolve
from himar.families.hmar.model import HMAR
from himar.families.hmar.optimisation import Schedule
from himar.families.hmar.tokenizer.network import Tokenizer
from himar.families.hmar.tokenizer.sizes import TokenizerConfig
from himar.families.hmar.training_settings import TrainingSettings
from himar.training.family import Start

SIZES = {
    "patch_nums": [1, 2, 3],
    "width": 16,
    "depth": 3,
    "heads": 2,
    "tail": 1,
    "classes": 4,
    "vocab": 32,
    "latent_channels": 4,
    "vae_ch": 8,
    "vae_groups": 4,
    "vae_stride": 4,
    "sampling": {"default": {"guidance": 1.5, "top_k": 8, "top_p": 0.9, "schedule": [[1], [1, 3]]}},
}
SETTINGS = TrainingSettings(schedule=Schedule(12, 3e-3, 2, 0.1, 0.05, 0.08), batch=8, snapshot_every=5)


def config(masked: bool = False) -> ModelConfig:
    return resolve({**SIZES, "masked": masked}, {})


def tokenizer(seed: int = 0) -> Tokenizer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Tokenizer(TokenizerConfig(8, (1, 1, 2), 4, 32, 4, 1, ()))
        torch.nn.init.normal_(made.quantize.embedding.weight)
    return made.eval().requires_grad_(False)


def codes(n: int = 24, seed: int = 0) -> CodeSet:
    generator = torch.Generator().manual_seed(seed)
    scales = config().scales
    drawn = torch.randint(32, (n, scales.tokens), generator=generator)
    return CodeSet(drawn, torch.arange(n) % 4, tokenizer().quantize, scales)


def settings(steps: int | None = None, **changes: Any) -> TrainingSettings:
    changed = replace(SETTINGS, **changes)
    return changed if steps is None else replace(changed, schedule=replace(changed.schedule, steps=steps))


def model(masked: bool = False) -> HMAR:
    return HMAR(config(masked))


def start(seed: int = 4, masked: bool = False) -> Start:
    """A next-scale network with random weights that all matter, or both networks, to begin with."""
    from himar.families.hmar.model import randomise

    return Start(randomise(model(masked), seed).requires_grad_(False), f"weights {seed}")
