"""Defines the points of figure 3: what is measured of which model, and what the paper published of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from himar.families.hi_mar.config import ModelConfig
from himar_kernels import InputError
from himar_kernels.families.hi_mar import SamplingConfig

HIGH_STEPS = (1, 2, 4, 6, 8)
"""Autoregressive steps of phase high in the paper's figure."""

SINGLE_STEPS = (16, 32, 64, 128, 256)
"""Steps of a model of a single scale; 256, a token a step, is what the paper compares with."""

PUBLISHED: Mapping[str, Mapping[int, float]] = {
    "himar-b": {1: 0.13, 2: 0.18, 4: 0.285, 6: 0.39, 8: 0.50},
    "mar-b": {256: 0.53},
}
"""Seconds per image, one H100, batch 128, eager PyTorch, read off the paper's figure 3: two digits, not more."""

OTHERS: Mapping[str, float] = {"DiT-XL/2, 250 steps": 0.79}
"""Published points of models that are not measured here."""


@dataclass(frozen=True)
class Point:
    """One setting of one model: `steps` of phase high, the only phase of a single scale."""

    model: str
    steps: int
    sampling: SamplingConfig

    @property
    def published(self) -> float | None:
        """Seconds per image in the paper; None where it gives none that could be read."""
        return PUBLISHED.get(self.model, {}).get(self.steps)


def points_of(name: str, config: ModelConfig, steps: tuple[int, ...]) -> list[Point]:
    """Return a model's points, its own sampling settings with other steps in phase high.

    steps: empty takes the figure's, as far as the model has so many positions. Raises InputError for steps that the
    model does not have.
    """
    asked = steps
    if not steps:
        usual = SINGLE_STEPS if config.single_scale else HIGH_STEPS
        asked = tuple(each for each in usual if each <= config.high_positions)
    wrong = [each for each in asked if not 1 <= each <= config.high_positions]
    if wrong:
        raise InputError(f"{name} has {config.high_positions} positions in phase high; it cannot take "
                         f"{wrong[0]} steps; ask for 1 to {config.high_positions}.")  # fmt: skip
    return [Point(name, each, replace(config.default_sampling, high_steps=each)) for each in sorted(set(asked))]
