"""A request from labels to pixels on a queue, on the host or on a GPU, downloaded once at the end."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from himar_kernels import EngineError
from himar_kernels.families.hi_mar import Step, describe_fault, launches
from himar_kernels.families.hi_mar.definitions import DEFINITIONS
from himar_kernels.families.hi_mar.device_state import HEAD_FAULTS
from himar_kernels.families.hi_mar.phases import VAE_DECODER, ModelInfo
from himar_kernels.shared.errors import not_finite
from himar_runtime.decode import DECODE_BATCH
from himar_runtime.engines.engine import Engine
from himar_runtime.engines.networks import Networks
from himar_runtime.preview import Preview
from himar_runtime.queue.device import DeviceTensor, ResidentDevice, ResidentEngine
from himar_runtime.queue.host import HostDevice, HostEngine
from himar_runtime.queue.queue import Queue
from himar_runtime.runner import Generated, ShouldContinue

from .buffers import Buffers
from .loop import Lane, Loop, Request

log = logging.getLogger(__name__)


class LoopRunner:
    """One lane: its engines, buffers and recorded graphs. See `himar_runtime.runner.Runner`."""

    def __init__(
        self,
        networks: Networks,
        device: ResidentDevice,
        engines: Mapping[str, ResidentEngine],
        model: ModelInfo,
        batch: int,
    ) -> None:
        """Allocate the buffers for `batch` images; EngineError when the device has no room.

        engines: the networks' engines, as such that take tensors on the device.
        """
        self._networks = networks
        self._previews: Engine | None = None
        self.batch = batch
        device.make_current()
        widths = {phase.name: _condition_width(engines[phase.head]) for phase in model.phases}
        self._lane = Lane(Queue(device, engines), Buffers.allocate(device, model, batch, widths), model, widths)

    @classmethod
    def resident(cls, networks: Networks, device: ResidentDevice, model: ModelInfo, batch: int) -> LoopRunner:
        """Return a runner on the lane of the networks; EngineError when an engine takes no tensors there."""
        return cls(networks, device, networks.resident(), model, batch)

    @classmethod
    def on_host(cls, networks: Networks, model: ModelInfo, batch: int) -> LoopRunner:
        """Return a runner whose queue is the host; the engines run wherever they live."""
        device = HostDevice(DEFINITIONS)
        engines = {name: HostEngine(engine, device) for name, engine in networks.engines.items()}
        return cls(networks, device, engines, model, batch)

    def run(self, request: Request, should_continue: ShouldContinue | None) -> Generated | None:
        """See Runner.run. On a GPU the host waits at the end alone, or with `should_continue` one step behind."""
        try:
            generated = self._generate(request, should_continue)
        except BaseException:
            with contextlib.suppress(EngineError):  # the first error is the one to tell
                self._device.synchronize()
            raise
        if generated is None:
            # The caller may let go of everything: nothing queued may still use it then.
            self._device.synchronize()
            return None
        for engine in self._lane.queue.engines.values():
            engine.finish()
        return generated

    def _generate(self, request: Request, should_continue: ShouldContinue | None) -> Generated | None:
        batch, at_once = len(request.labels), self._device.runs_at_once
        self._device.make_current()
        loop = Loop(self._lane, request)
        behind: Callable[[], bool] | None = None
        for index, step in enumerate(loop.steps):
            loop.step(index)
            log.debug("phase %s step %d reveals %d of %d positions", step.phase, step.index, step.revealed, step.masked)
            if at_once:
                self._check_fault()
            if should_continue is None:
                continue
            due: Callable[[], bool] | None = self._report(step, should_continue, batch)
            if not at_once:
                due, behind = behind, due
            if due is not None and not due():
                return None
        if VAE_DECODER in self._lane.queue.engines:
            self._decode(batch)
        if behind is not None and not behind():
            return None
        return self._download(batch)

    def clone(self) -> LoopRunner:
        """See Runner.clone."""
        networks = self._networks.clone()
        assert networks.lane is not None  # a clone has a lane where its original has one
        return LoopRunner.resident(networks, networks.lane, self._lane.model, self.batch)

    @property
    def _device(self) -> ResidentDevice:
        return self._lane.queue.device

    def _report(self, step: Step, should_continue: ShouldContinue, batch: int) -> Callable[[], bool]:
        """Mark the end of a step; return a function that waits for the mark and then asks whether to go on."""
        device, model = self._device, self._lane.model
        wait = device.mark()

        def low_tokens() -> NDArray[np.float32]:
            low = np.zeros((batch, model.low_positions, model.channels), np.float32)
            device.make_current()
            if low.size:
                device.download(self._lane.buffers.low_tokens, low)  # waits for all that is queued
            return low

        def report() -> bool:
            wait()
            answer = should_continue(step, Preview(model, low_tokens, self._preview_decoder))
            device.make_current()  # the callback is a user's, who may use another GPU
            return answer

        return report

    def _preview_decoder(self) -> Engine | None:
        """The decoder for previews: of its own, so that the buffers and contexts of the loop's stay as recorded."""
        self._device.make_current()  # the callback is a user's, who may use another GPU
        if self._previews is None and self._networks.vae_decoder is not None:
            self._previews = self._networks.vae_decoder.clone(self._networks.lane)
        return self._previews

    def _decode(self, batch: int) -> None:
        """Queue the way from tokens to pixels, a few images at a time."""
        queue, buffers, model = self._lane.queue, self._lane.buffers, self._lane.model
        n, channels, grid, side = model.high_positions, model.channels, model.grid, model.img_size
        sizes = {"batch": batch, "n": n, "channels": channels, "vae_scale": model.vae_scale}
        queue.launch(launches.latents, vars(buffers) | sizes)

        def part(first: int, count: int) -> None:
            latents = DeviceTensor(buffers.latents + first * channels * n * 4, (count, channels, grid, grid))
            image = buffers.placed("image", count, 3, side, side)
            queue.run(VAE_DECODER, {"latent": latents, "image": image})
            places = {"pixels": buffers.pixels + first * side * side * 3, "images": buffers.image}
            queue.launch(launches.pack, {**places, "fault": buffers.fault, "batch": count, "area": side * side})

        for first in range(0, batch, DECODE_BATCH):
            count = min(DECODE_BATCH, batch - first)
            queue.segment((VAE_DECODER, first, count), functools.partial(part, first, count))

    def _check_fault(self) -> None:
        fault = np.zeros(1, np.uint32)
        self._device.download(self._lane.buffers.fault, fault)
        if fault[0]:
            raise _not_finite(int(fault[0]), self._lane.model)

    def _download(self, batch: int) -> Generated:
        device, buffers, model = self._device, self._lane.buffers, self._lane.model
        low = np.empty((batch, model.low_positions, model.channels), np.float32)
        high = np.empty((batch, model.high_positions, model.channels), np.float32)
        pixels: NDArray[np.uint8] | None = None
        self._check_fault()
        if low.size:
            device.download(buffers.low_tokens, low)
        device.download(buffers.tokens, high)
        if VAE_DECODER in self._lane.queue.engines:
            pixels = np.empty((batch, model.img_size, model.img_size, 3), np.uint8)
            device.download(buffers.pixels, pixels)
        return Generated(low, high, pixels)


class HostRunner:
    """The loop on the host, with buffers for the largest batch that was asked so far."""

    def __init__(self, networks: Networks, model: ModelInfo) -> None:
        """Take engines that run one component at a time, wherever they live."""
        self._networks = networks
        self._model = model
        self._runner: LoopRunner | None = None

    def run(self, request: Request, should_continue: ShouldContinue | None) -> Generated | None:
        """See Runner.run."""
        if self._runner is None or self._runner.batch < len(request.labels):
            self._runner = LoopRunner.on_host(self._networks, self._model, len(request.labels))
        return self._runner.run(request, should_continue)

    def clone(self) -> HostRunner:
        """See Runner.clone."""
        return HostRunner(self._networks.clone(), self._model)


def _condition_width(engine: ResidentEngine) -> int:
    """Return the width of the condition that a head takes."""
    return next(int(tensor.shape[-1]) for tensor in engine.spec.inputs if tensor.name == "condition")


def _not_finite(word: int, model: ModelInfo) -> EngineError:
    component, step = describe_fault(word)
    found = {
        name: (engine, f" in phase {phase.name}, step {step}")
        for phase in model.phases
        for name, engine in ((phase.transformer, phase.transformer), (HEAD_FAULTS[phase.kind, phase.name], phase.head))
    }
    component, where = found.get(component, (component, ""))
    return not_finite(component, where)
