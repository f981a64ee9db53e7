"""Decides which evaluations of a head a chain leaves out, and predicts the noise there. Optional; off by default.

Most evaluations of a chain say what the last ones said. Two ways to leave some out, alone or together:

* **Forecast** (TaylorSeer, arXiv 2503.06923, applied to the head's output; with order 0, FORA, arXiv 2407.01425). The
  head is evaluated at the first indices of a chain, at its last ones, and at every N-th between. With the evaluations
  at i and, before it, at i' = i + d, differences are D_0 = ε and D_{o+1} = (D_o - D_o') / -d for every order that the
  older evaluation has. At an index j between, with x = j - i, the noise is Σ_o D_o·x^o / o!.
* **Condition cache** (LazyMAR, arXiv 2503.12450, the head's part). Every P-th evaluation runs both halves and keeps
  Δ = ε_c - ε_u. The others run the conditional half alone and take ε_c + (g - 1)·Δ.

A third makes evaluations cheaper, at a DiT head. **Held modulations**: a third of its work are the modulations of its
norms, Linear(SiLU(t + z)) of the embedded timestep t and condition z, which do not depend on the state. They are made
anew at every H-th evaluation and held in between: evaluations of a group take the timestep of its first.

Forecasts are made after guidance, whose scale is constant over a chain. Which evaluations run depends on indices alone,
so an image does not depend on its batch. An MLP head's variance, of the conditional half, is forecast like the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels.shared.errors import InputError

from .diffusion import guided

Array = Any
"""np.ndarray or torch.Tensor, as in `diffusion`."""

MOST_ORDER = 2

WIDEST_SECOND_ORDER = 4
"""Interval from which on order 2 diverges: docs/forecast.md."""


@dataclass(frozen=True)
class Evaluations:
    """Which evaluations of a head its chain runs.

    Attributes:
        interval: N; every N-th index is evaluated between the first and the last ones. 1 evaluates all.
        order: of the forecast, 0 … 2.
        first, last: how many indices at either end of the chain are evaluated.
        guidance_interval: P; every P-th evaluation runs both halves, the others the conditional one; at 1 all run both.
        modulation_interval: H; a DiT head's modulations are made at every H-th evaluation and held in between; 1 holds
            none.
    """

    interval: int = 1
    order: int = 1
    first: int = 8
    last: int = 3
    guidance_interval: int = 1
    modulation_interval: int = 1

    def halves(self, steps: int, halves: int) -> tuple[int, ...]:
        """Return how many halves run at each index k = 0 … steps-1 of a chain; 0 where the noise is forecast.

        halves: 2 under guidance, else 1.
        """
        found = [0] * steps
        evaluated = 0
        for place in range(steps):  # from the top of the chain
            between = self.first <= place < steps - self.last
            if between and (place - self.first) % self.interval:
                continue
            found[steps - 1 - place] = halves if evaluated % self.guidance_interval == 0 else 1
            evaluated += 1
        return tuple(found)

    def modulated(self, halves: Sequence[int]) -> tuple[int, ...]:
        """Return of how many halves modulations are made at each index k of a chain; 0 where they are held.

        halves: of the chain, as `halves` gives them. An evaluation takes the modulations of its group's conditional
        half, or of both; one of both halves after one of the conditional half alone makes them again.
        """
        found, made = [0] * len(halves), 0
        for number, k in enumerate(evaluated(halves)):
            if number % self.modulation_interval == 0 or halves[k] > made:
                found[k] = made = halves[k]
        return tuple(found)

    def held_timesteps(self, timesteps: NDArray[np.int64], halves: Sequence[int]) -> NDArray[np.int64]:
        """Return the timesteps of a chain, int64 (n,), that a DiT head takes: those of each group's first evaluation.

        halves: as for `modulated`. Where no evaluation runs the timestep stays.
        """
        held, down = timesteps.copy(), evaluated(halves)
        for start in range(0, len(down), self.modulation_interval):
            held[down[start : start + self.modulation_interval]] = timesteps[down[start]]
        return held

    @property
    def leaves_out(self) -> bool:
        """True where a chain may run fewer halves than it has; then predictions are kept (`Predictions`)."""
        return self.interval > 1 or self.guidance_interval > 1


def evaluated(halves: Sequence[int]) -> list[int]:
    """Return the indices at which a chain's head runs, from the top; halves: as `Evaluations.halves` gives them."""
    return [k for k in range(len(halves) - 1, -1, -1) if halves[k]]


class Predictions:
    """The noise of one chain, index by index: as evaluated, with a kept difference of the halves, or as forecast."""

    def __init__(self, evaluations: Evaluations, guidance: float, channels: int) -> None:
        """channels: C of the noise, which lead those of a prediction; others are of the conditional half alone."""
        self._evaluations = evaluations
        self._guidance = guidance
        self._channels = channels
        self._at = 0
        self._differences: Sequence[Array] = ()
        self._gap: Array | None = None

    def at(self, k: int, prediction: Array | None, rows: int) -> tuple[Array, float]:
        """Return the prediction at index k, and the guidance that a reverse step still has to apply to it.

        Args:
            k: falls from call to call.
            prediction: float32 (h·rows, …, P) of the halves that ran, h of `Evaluations.halves`; None where none did.
            rows: of one half.

        Returns: (rows, …, P) and 1, or the prediction as it is and its guidance where nothing is ever left out.
        Raises InputError where the first call of a chain has no prediction, or one half under guidance.
        """
        if not self._evaluations.leaves_out:
            if prediction is None:
                raise InputError(f"no prediction at k = {k}, where every index is evaluated.")
            return prediction, self._guidance
        if prediction is None:
            return self._forecast(k), 1.0
        settled = self._settled(prediction, rows, k)
        self._keep(k, settled)
        return settled, 1.0

    def _settled(self, prediction: Array, rows: int, k: int) -> Array:
        """The conditional half's rows, their noise after guidance."""
        if self._guidance == 1:
            return prediction
        C = self._channels
        conditional = prediction[:rows]
        if len(prediction) == 2 * rows:
            noise = guided(prediction[..., :C], self._guidance)
            if self._evaluations.guidance_interval > 1:
                self._gap = conditional[..., :C] - prediction[rows:][..., :C]
        elif self._gap is None:
            raise InputError(f"the conditional half ran alone at k = {k}, but nothing is kept of both halves yet.")
        else:
            noise = conditional[..., :C] + float(np.float32(self._guidance) - np.float32(1)) * self._gap
        if conditional.shape[-1] == C:
            return noise
        settled = conditional.clone() if hasattr(conditional, "clone") else conditional.copy()
        settled[..., :C] = noise
        return settled

    def _keep(self, k: int, settled: Array) -> None:
        """Take an evaluation's differences from those of the one before."""
        differences = [settled]
        for older in self._differences[: self._evaluations.order]:
            differences.append((differences[-1] - older) / float(k - self._at))
        self._differences, self._at = differences, k

    def _forecast(self, k: int) -> Array:
        if not self._differences:
            raise InputError(f"the noise at k = {k} is to be forecast, but nothing was evaluated before.")
        x = float(k - self._at)
        noise = self._differences[0]
        for order, difference in enumerate(self._differences[1:], 1):
            noise = noise + difference * (x if order == 1 else x * x / 2)
        return noise
