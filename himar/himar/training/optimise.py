"""Takes optimiser steps, the same for every network: schedule, gradient clip, and a stop when numbers break."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from himar_kernels import ConfigError, HimarError

from .settings import DecaySchedule, StepSchedule

_LEAST_SCALE = 2.0**-20


class TrainingError(HimarError):
    """Training cannot continue: a loss or gradient is not finite."""


@dataclass(frozen=True)
class Schedule:
    """Learning rate over the steps (counted from 0) of a run.

    steps: length of the run; peak: rate after warm-up; warmup: steps of linear warm-up; decay: what follows:
    "constant", or "cosine" or "linear" down to zero.
    """

    steps: int
    peak: float
    warmup: int = 0
    decay: Literal["constant", "cosine", "linear"] = "constant"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; train for at least 1 step.")
        if not 0 < self.peak < math.inf:
            raise ConfigError(f"the learning rate is {self.peak}; it must be a positive number.")
        if not 0 <= self.warmup <= self.steps:
            raise ConfigError(f"warmup is {self.warmup}; it must be 0 to {self.steps}, the number of steps.")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        if self.decay == "cosine":
            return self.peak * 0.5 * (1 + math.cos(math.pi * done))
        return self.peak * (1 - done) if self.decay == "linear" else self.peak


@dataclass(frozen=True)
class Progress:
    """What one step reports: its number from 1, the run's length, and figures by name (losses, rate)."""

    step: int
    steps: int
    images: int
    figures: Mapping[str, float]


OnStep = Callable[[Progress], None]


class LossScale(torch.amp.GradScaler):
    """Scales the loss of float16 training, starting at `first`, by no more than `most` (None for no limit)."""

    def __init__(self, device: str, first: float = 2.0**16, most: float | None = None) -> None:
        super().__init__(device, init_scale=first)
        self._most = most

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Change the scale after a step, as torch.amp.GradScaler does."""
        super().update(new_scale)
        if self._most is not None and self.get_scale() > self._most:
            super().update(self._most)


class Optimiser:
    """AdamW with β 0.9/0.95, a schedule and gradient clipping (docs/model.md §8, docs/hmar-model.md §7).

    Args:
        groups: parameters, or parameter groups with their own weight decay; those with "decays" set take that of the
            schedule at each step; "rate_factor" multiplies a group's learning rate.
        schedule: learning rate by step.
        clip: largest norm of all gradients together.
        scaler: scales the loss so that float16 gradients do not vanish; None for float32 and bfloat16.
    """

    def __init__(
        self,
        groups: Iterable[nn.Parameter] | Iterable[dict],
        schedule: StepSchedule,
        clip: float = 3.0,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.adam = torch.optim.AdamW(groups, lr=schedule.peak, betas=(0.9, 0.95), weight_decay=0.0)
        self.scaler = scaler
        self._parameters = [p for group in self.adam.param_groups for p in group["params"]]
        self._schedule = schedule
        self._clip = clip

    def step(self, number: int, loss: Tensor) -> float:
        """Go one step down the loss (a scalar) and return the learning rate used. Raises TrainingError."""
        self.check(number, loss)
        self.backward(loss)
        return self.update(number)

    def check(self, number: int, loss: Tensor) -> None:
        """Raise TrainingError unless a step's loss is finite."""
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of step {number + 1} is {loss.item()}; lower the learning rate "
                f"({self._schedule.peak}) or check the training data for NaN."
            )

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, or of a part's share of it, to those of this step."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def update(self, number: int) -> float:
        """Clip the gradients added so far, change the parameters by them and forget them; return the learning rate.

        Under float16 a step whose gradients overflow is left out and the scale halved. Raises TrainingError.
        """
        rate = self._schedule.rate(number)
        for group in self.adam.param_groups:
            group["lr"] = rate * group.get("rate_factor", 1.0)
            if group.get("decays") and isinstance(self._schedule, DecaySchedule):
                group["weight_decay"] = self._schedule.weight_decay(number)
        if self.scaler is not None:
            self.scaler.unscale_(self.adam)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._clip)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # Sharded over processes.
        if self.scaler is not None:
            self.scaler.step(self.adam)
            self.scaler.update()
            self._check_scale(number, self.scaler.get_scale())
        elif torch.isfinite(norm):
            self.adam.step()
        else:
            raise TrainingError(
                f"the gradient of step {number + 1} is not finite; lower the learning rate ({self._schedule.peak})."
            )
        self.adam.zero_grad(set_to_none=True)
        return rate

    def _check_scale(self, number: int, scale: float) -> None:
        if scale < _LEAST_SCALE:
            raise TrainingError(
                f"the gradient of step {number + 1} is not finite even with a loss scale of {scale:g}; "
                f"lower the learning rate ({self._schedule.peak}) or train in bf16."
            )
