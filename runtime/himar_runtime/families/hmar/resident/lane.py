"""What belongs to one lane, and what belongs to one request on it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from himar_kernels.families.hmar.draws import CounterDraws
from himar_kernels.families.hmar.sizes import ModelInfo
from himar_runtime.queue.device import ResidentDevice, ResidentEngine
from himar_runtime.queue.replays import Replays

from ..loop import Request
from .buffers import Buffers, Vectors
from .constants import Constants
from .past import Past, allocate_pasts


@dataclass(frozen=True)
class Lane:
    """A device's queue with the engines, buffers and recorded graphs that use it; most: images of the largest batch."""

    device: ResidentDevice
    engines: Mapping[str, ResidentEngine]
    model: ModelInfo
    most: int
    constants: Constants
    buffers: Buffers
    vectors: Vectors
    replays: Replays

    @functools.cached_property
    def pasts(self) -> Mapping[str, Past]:
        """The caches of the components that attend to all coarser scales, allocated when a request first needs them.

        EngineError when the device has no room.
        """
        return allocate_pasts(self.device, self.model, 2 * self.most)


@dataclass(frozen=True)
class Work:
    """A request that runs on a lane: B = `batch` images.

    redrawn: of an edit, by the number of a forward, how many cells of each image (B,) the step after it redraws.
    """

    lane: Lane
    request: Request
    redrawn: Mapping[int, NDArray[np.int64]] | None

    @property
    def batch(self) -> int:
        """B."""
        return len(self.request.labels)

    @property
    def draws_on_device(self) -> bool:
        """True where the kernels draw the uniforms; others come from the host."""
        return isinstance(self.request.draws, CounterDraws)
