"""Where a request's orders and noise come from: the kernels' own Philox on a GPU, or draws made on the host."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from himar_kernels import Draws, PhiloxDraws
from himar_kernels.families.hi_mar import AnyChain, Phase, Sites, Step, launches, revealed_positions
from himar_kernels.families.hi_mar.device_state import PHASE_CODES
from himar_kernels.families.hi_mar.phases import ModelInfo, PhaseInfo
from himar_runtime.queue.queue import Queue

from .buffers import Buffers


class NoiseSource:
    """The draws of one request. On a GPU Philox stays there; other draws travel before every launch that uses them.

    On the host all are drawn before the launches, many steps' noise at once.

    Attributes:
        address: what the kernels take as `noise`; None draws on the device.
        seed: of Philox, 0 for other draws.
    """

    def __init__(
        self, queue: Queue, buffers: Buffers, model: ModelInfo, draws: Draws, images: NDArray[np.int64]
    ) -> None:
        self._queue, self._buffers, self._channels = queue, buffers, model.channels
        self._draws, self._images = draws, images
        on_device = isinstance(draws, PhiloxDraws) and not queue.device.runs_at_once
        self.address = None if on_device else buffers.noise
        self.seed = draws.seed if isinstance(draws, PhiloxDraws) else 0
        self._orders: dict[Phase, NDArray[np.int64]] = {}
        self._sites: Sites | None = None  # of the step under way, unless drawn on the device

    def order(self, phase: PhaseInfo) -> None:
        """Queue the places of all n positions of a phase in their images' orders: uint32 (B, n) at its `ranks`."""
        n, images, ranks = phase.positions, self._images, self._buffers.of(phase).ranks
        if self.address is None:
            sizes = {"phase": PHASE_CODES[phase.name], "batch": len(images), "n": n}
            self._queue.launch(launches.ranks, vars(self._buffers) | {"ranks": ranks} | sizes)
            return
        order = self._orders[phase.name] = self._draws.order(phase.name, n, images)
        self._queue.device.upload(ranks, np.argsort(order, axis=1).astype(np.uint32))

    def begin(self, phase: PhaseInfo, step: Step) -> None:
        """Have the initial noise of a step ready where the start kernel looks for it."""
        if self.address is not None:
            self._sites = self._sites_of(phase, step)
            self._queue.device.upload(self.address, self._sites.initial_noise())

    def down(self, chain: AnyChain) -> Iterator[int]:
        """Yield k of the step from n-1 to 0, its noise ready where the step kernel looks for it; k = 0 has none."""
        if self._sites is None:
            yield from reversed(range(len(chain)))
            return
        for k, noise in self._sites.down(chain):
            if noise is not None:
                self._queue.device.upload(self._buffers.noise, noise)
            yield k

    def _sites_of(self, phase: PhaseInfo, step: Step) -> Sites:
        """An MLP head samples the revealed positions, a DiT head all."""
        order = self._orders[phase.name]
        if phase.kind == "mlp":
            positions = revealed_positions(order, step)
        else:
            positions = np.broadcast_to(np.arange(order.shape[1]), order.shape)
        return Sites(self._draws, step, self._images, positions, self._channels)
