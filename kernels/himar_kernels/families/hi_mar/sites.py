"""Locates the noise of an autoregressive step, and draws it from the top of a chain down to its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from himar_kernels.arithmetic.draws import Draws

from .diffusion import Chain
from .schedule import Step
from .solvers import AnyChain

# Values of noise drawn at once: enough to share a call's cost, little enough to stay in memory's reach.
NOISE_BLOCK = 1 << 20


@dataclass(frozen=True)
class Sites:
    """Where a step's noise belongs: images int64 (B,) and their positions int64 (B, r), with C channels.

    block: values of noise that are drawn at once; NOISE_BLOCK if None.
    """

    draws: Draws
    step: Step
    images: NDArray[np.int64]
    positions: NDArray[np.int64]
    channels: int
    block: int | None = None

    def initial_noise(self) -> NDArray[np.float32]:
        """Return float32 (B, r, C)."""
        step = self.step
        return self.draws.initial_noise(step.phase, step.index, self.images, self.positions, self.channels)

    def down(self, chain: AnyChain) -> Iterator[tuple[int, NDArray[np.float32] | None]]:
        """Yield (k, noise (B, r, C)) from k = n-1 to 0; the last step has no noise, and no step of a solver's chain."""
        step = self.step
        if not isinstance(chain, Chain):
            yield from ((k, None) for k in reversed(range(len(chain))))
            return
        values = max(1, self.positions.size * self.channels)
        at_once = max(1, (self.block or NOISE_BLOCK) // values)
        for top in range(len(chain) - 1, 0, -at_once):
            ks = range(top, max(0, top - at_once), -1)
            block = self.draws.noise(step.phase, step.index, ks, self.images, self.positions, self.channels)
            yield from zip(ks, block, strict=True)
        yield 0, None
