"""Draws as `himar_kernels.PhiloxDraws` does, where the eager model runs, so that a GPU waits for none of them.

Philox's words are exact everywhere; normals agree with NumPy's to float32's rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himar_kernels import Draws, PhiloxDraws
from himar_kernels.arithmetic.draws import normal_counters, turns
from himar_kernels.arithmetic.philox import KEY_STEPS, MULTIPLIERS, ROUNDS
from himar_kernels.families.hi_mar import Phase

DEVICE_NOISE_BLOCK = 1 << 24
"""Values drawn at once on a GPU, where a block's cost is that of starting some two hundred kernels."""

_WORD = 0xFFFFFFFF


def draws_on(draws: Draws, device: torch.device) -> Draws:
    """Return what a model on `device` draws from: Philox moves to a GPU with it, other draws come from the host."""
    return DeviceDraws(draws.seed, device) if device.type == "cuda" and type(draws) is PhiloxDraws else draws


class DeviceDraws(PhiloxDraws):
    """As PhiloxDraws; noise comes as tensors on a device. Orders, drawn twice a generation, come from the host."""

    def __init__(self, seed: int, device: torch.device) -> None:
        super().__init__(seed)
        self.device = device

    def _normals(  # type: ignore[override]
        self,
        phase: Phase,
        step: int,
        diffusion: Sequence[int],
        images: NDArray[np.int64],
        positions: NDArray[np.int64],
        channels: int,
    ) -> Tensor:
        counters = normal_counters(phase, step, diffusion, images, positions, channels)
        words = _philox_words([self._here(each) for each in counters], self.seed)
        pairs = torch.stack([_box_muller(*words[:2]), _box_muller(*words[2:])], dim=-2)
        batch, count = positions.shape
        return pairs.float().reshape(len(diffusion), batch, count, -1)[..., :channels]

    def _here(self, values: NDArray[np.uint64]) -> Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(self.device)


def _philox_words(counter: Sequence[Tensor], key: int) -> tuple[Tensor, ...]:
    """As `himar_kernels.arithmetic.philox.philox_words`, of words in int64, whose products wrap to the same bits."""
    c0, c1, c2, c3 = counter
    key0, key1 = key & _WORD, key >> 32
    for _ in range(ROUNDS):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = ((product1 >> 32) & _WORD) ^ c1 ^ key0, product1 & _WORD
        c2, c3 = ((product0 >> 32) & _WORD) ^ c3 ^ key1, product0 & _WORD
        key0, key1 = (key0 + KEY_STEPS[0]) & _WORD, (key1 + KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


def _box_muller(first: Tensor, second: Tensor) -> Tensor:
    """Return the two normals (…, 2) of two words, in float64."""
    coarse, fine = _turns_on(first.device)
    radius = torch.sqrt(-2.0 * torch.log(((first >> 8).double() + 1.0) * 2.0**-24))
    turn = second >> 8
    return torch.view_as_real(coarse[turn >> 12] * fine[turn & 0xFFF] * radius)


@functools.cache
def _turns_on(device: torch.device) -> tuple[Tensor, Tensor]:
    coarse, fine = turns()
    return torch.from_numpy(coarse).to(device), torch.from_numpy(fine).to(device)
