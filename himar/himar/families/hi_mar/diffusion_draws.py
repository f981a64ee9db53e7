"""Draws what a diffusion head is trained at: timesteps, noise and weights (docs/model.md §5, §8)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from himar_kernels import ConfigError

from .head_losses import CHAIN_STEPS, tables

_EARLIEST = 800


@dataclass(frozen=True)
class StartPractice:
    """Extra practice of the reverse chain's first steps, for models that train briefly.

    The first reverse step magnifies the head's error at the last timestep: 126 times in a chain of 250 steps, 1,327
    times in one of 25. Long training makes that error small; after short training the state leaves the range that
    the head has seen, and nothing brings it back. So a share of the draws practises exactly this: half of it the
    last timestep, half timesteps from 800 on with too much noise.

    share: of all draws; weight: largest weight of a practised draw's error (it is 1/ᾱ_t where that is less);
    excess: largest factor on the noise, reached towards the last timestep.
    """

    share: float = 0.25
    weight: float = 100.0
    excess: float = 12.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share is {self.share}; it must be 0 to 1.")
        for name in ("weight", "excess"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")


def diffusion_draws(
    shape: tuple[int, ...], start: StartPractice | None, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a timestep, noise and a weight for each of the M rows of a target of shape (M, …), on the CPU.

    Returns t (M,) integers 0 … 999, uniform save for practice; noise of that shape, standard normal save for
    practice; weight (M,) of the row's squared error, 1 save for practice.
    """
    rows = shape[0]
    t = torch.randint(CHAIN_STEPS, (rows,), generator=generator)
    noise = torch.randn(shape, generator=generator)
    weight = torch.ones(rows)
    if start is not None:
        kind = torch.rand(rows, generator=generator) / max(start.share, 1e-9)
        late = torch.randint(_EARLIEST, CHAIN_STEPS - 1, (rows,), generator=generator)
        last = kind < 0.5
        practised = kind < 1
        t = torch.where(last, CHAIN_STEPS - 1, torch.where(practised, late, t))
        reach = (t - _EARLIEST).clamp(min=0) / (CHAIN_STEPS - 1 - _EARLIEST)
        factor = start.excess ** (reach * torch.rand(rows, generator=generator))
        factor = torch.where(practised & ~last, factor, 1.0)
        noise = noise * factor.reshape(-1, *[1] * (noise.ndim - 1))
        capped = tables(torch.device("cpu")).x_scale[t].square().clamp(max=start.weight)
        weight = torch.where(practised, capped / factor.square(), weight)
    return t, noise, weight
