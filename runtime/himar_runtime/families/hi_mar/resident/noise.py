"""Gives a request its orders and noise on the device: the kernels' own Philox, or draws that are made on the host."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from himar_kernels.arithmetic.draws import CounterDraws
from himar_kernels.families.hi_mar import Phase, Step, launches, revealed_positions
from himar_kernels.families.hi_mar.device_state import PHASE_CODES
from himar_kernels.families.hi_mar.phases import ModelInfo, PhaseInfo
from himar_runtime.queue.device import ResidentDevice

from ..loop import Request
from .buffers import Buffers


class NoiseSource:
    """The draws of one request. Counter-based ones stay on the device; others travel there before each launch.

    Attributes:
        address: what the kernels take as `noise`; None draws on the device.
    """

    def __init__(self, device: ResidentDevice, buffers: Buffers, model: ModelInfo, request: Request) -> None:
        self._device, self._buffers, self._model, self._request = device, buffers, model, request
        self.address = None if isinstance(request.draws, CounterDraws) else buffers.noise
        self._orders: dict[Phase, NDArray[np.int64]] = {}

    def order(self, phase: Phase, positions: int, ranks: int) -> None:
        """Queue the places of all positions of a phase in their images' orders: uint32 (B, positions) at `ranks`."""
        images = self._request.images
        if self.address is None:
            buffers = self._buffers
            self._device.launch(
                launches.ranks(
                    ranks=ranks, origins=buffers.origins, phase=PHASE_CODES[phase], batch=len(images), n=positions,
                )
            )  # fmt: skip
            return
        order = self._orders[phase] = self._request.draws.order(phase, positions, images)
        self._device.upload(ranks, np.argsort(order, axis=1).astype(np.uint32))

    def initial(self, phase: PhaseInfo, step: Step) -> None:
        """Have the initial noise of a step ready where the start kernel looks for it."""
        if self.address is not None:
            request, positions = self._request, self._positions(phase, step)
            noise = request.draws.initial_noise(step.phase, step.index, request.images, positions, self._model.channels)
            self._device.upload(self.address, noise)

    def at(self, phase: PhaseInfo, step: Step, k: int) -> None:
        """Have the noise of reverse step k ready where the step kernel looks for it; k = 0 has none."""
        if self.address is not None and k > 0:
            request, positions = self._request, self._positions(phase, step)
            noise = request.draws.noise(step.phase, step.index, [k], request.images, positions, self._model.channels)
            self._device.upload(self.address, noise)

    def _positions(self, phase: PhaseInfo, step: Step) -> NDArray[np.int64]:
        """An MLP head samples the revealed positions, a DiT head all."""
        order = self._orders[phase.name]
        if phase.kind == "mlp":
            return revealed_positions(order, step)
        return np.broadcast_to(np.arange(order.shape[1]), order.shape)
