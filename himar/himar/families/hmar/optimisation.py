"""What is trained in each phase, how strongly each parameter decays, and both schedules (docs/hmar-model.md §7)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from himar_kernels import ConfigError

from .model import HMAR, Network

BETAS, EPS = (0.9, 0.95), 1e-8
"""Of AdamW, in both phases."""
CLIP = 2.0
"""Gradients are multiplied by min(1, CLIP / (norm + 1e-6)), the norm over all trained parameters."""

_NO_DECAY = ("pos_1LC", "pos_start", "lvl_embed", "scale_mul")
_FLOOR, _PLATEAU = 0.005, 0.05


@dataclass(frozen=True)
class Schedule:
    """Learning rate "lin0" and weight decay over a run of `steps` iterations.

    peak: highest rate; warmup: iterations to it from 0.005 of it; end: share of the peak at the last iteration (wpe);
    decay, decay_end: weight decay at the first and at the last iteration.
    """

    steps: int
    peak: float
    warmup: int
    end: float = 0.1
    decay: float = 0.05
    decay_end: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; train for at least 1 step.")
        if not 0 <= self.warmup < self.steps:
            raise ConfigError(f"warmup is {self.warmup} of {self.steps} iterations; it must be shorter than the run.")
        if not 0 < self.peak < math.inf:
            raise ConfigError(f"peak is {self.peak}; the learning rate must be a positive number.")
        for name in ("end", "decay", "decay_end"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise ConfigError(f"{name} is {value}; it must be a finite number of at least 0.")

    def rate(self, step: int) -> float:
        """Return the learning rate of an iteration, 0 … steps-1: a rise, a plateau of 5 %, a line down."""
        if step < self.warmup:
            return (_FLOOR + (1 - _FLOOR) * step / self.warmup) * self.peak
        done = (step - self.warmup) / max(1, self.steps - 1 - self.warmup)
        if done < _PLATEAU:
            return self.peak
        return (self.end + (1 - self.end) * (1 - done) / (1 - _PLATEAU)) * self.peak

    def weight_decay(self, step: int) -> float:
        """Return the weight decay of an iteration: half a cosine from `decay` to `decay_end`."""
        turn = math.pi * step / max(1, self.steps - 1)
        return self.decay_end + (self.decay - self.decay_end) * (0.5 + 0.5 * math.cos(turn))


def trained_parameters(model: HMAR, phase: Network) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the names and parameters that a phase trains.

    The next-scale phase trains its whole network; the masked phase what the masked network has for itself, over the
    frozen rest.
    """
    for name, parameter in model.named_parameters():
        if name.startswith("mask_") == (phase == "masked"):
            yield name, parameter


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: not to vectors, biases, position and level tables and sharpness."""
    return parameter.ndim > 1 and not name.endswith("bias") and not any(part in name for part in _NO_DECAY)


def clip_factor(norm: float, most: float = CLIP) -> float:
    """Return what gradients of this norm are multiplied by."""
    return min(1.0, most / (norm + 1e-6))
