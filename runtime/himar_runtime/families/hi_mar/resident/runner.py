"""A request on the device from labels to pixels, downloaded once at the end."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from himar_kernels import EngineError
from himar_kernels.families.hi_mar import Step, describe_fault, launches, plan
from himar_kernels.families.hi_mar.device_state import HEAD_FAULTS
from himar_kernels.families.hi_mar.phases import ModelInfo
from himar_kernels.families.registry import VAE_DECODER
from himar_kernels.shared.errors import not_finite
from himar_runtime.decode import DECODE_BATCH
from himar_runtime.engines.engine import Engine
from himar_runtime.engines.networks import Networks
from himar_runtime.queue.device import DeviceTensor, ResidentDevice, ResidentEngine
from himar_runtime.queue.replays import Replays
from himar_runtime.runner import Generated, ShouldContinue

from ..host import HostRunner, generated
from ..loop import Request, held_components, what_rows_show
from ..preview import Preview
from .buffers import Buffers
from .lane import HeldBuffers, Lane, condition_width
from .loop import begin, queue_step


class ResidentRunner:
    """One lane: its engines, buffers and recorded graphs. See `himar_runtime.runner.Runner`."""

    def __init__(
        self,
        networks: Networks,
        device: ResidentDevice,
        model: ModelInfo,
        batch: int,
        empty: NDArray[np.float32] | None = None,
    ) -> None:
        """Allocate the buffers for `batch` images; EngineError when the device has no room.

        empty: context (K, W) of the empty prompt; None where images are of classes.
        """
        self._networks = networks
        self._empty = empty
        self._previews: Engine | None = None
        self._editor: HostRunner | None = None
        self._batch = batch
        engines: dict[str, ResidentEngine] = networks.resident()
        device.make_current()
        widths = {phase.name: condition_width(engines[phase.head].spec) for phase in model.phases}
        self._lane = Lane(
            device,
            engines,
            Buffers.allocate(device, model, batch, widths),
            Replays(device, engines.values()),
            model,
            widths,
            {},
        )

    def run(self, request: Request, should_continue: ShouldContinue | None) -> Generated | None:
        """See Runner.run. The host waits at the end alone, or with `should_continue` one step behind the device.

        Edits run the loop on the host, over engines of their own, so that the lane's stay as its graphs recorded them.
        """
        if request.edit is not None:
            if self._editor is None:
                self._editor = HostRunner(self._networks.clone(), self._lane.model, self._empty)
            return self._editor.run(request, should_continue)
        try:
            generated = self._generate(request, should_continue)
        except BaseException:
            with contextlib.suppress(EngineError):  # the first error is the one to tell
                self._lane.device.synchronize()
            raise
        if generated is None:
            # The caller may let go of everything: nothing queued may still use it then.
            self._lane.device.synchronize()
            return None
        for engine in self._lane.engines.values():
            engine.finish()
        return generated

    def _generate(self, request: Request, should_continue: ShouldContinue | None) -> Generated | None:
        lane, batch = self._lane, len(request.labels)
        lane.device.make_current()
        self._have_held(request)
        work = begin(lane, request, what_rows_show(self._networks, lane.model, request, self._empty))
        behind: Callable[[], bool] | None = None
        for index, step in enumerate(plan(request.sampling, lane.model.low_positions, lane.model.high_positions)):
            queue_step(work, index, step)
            if should_continue is None:
                continue
            previous, behind = behind, self._report(step, should_continue, batch)
            if previous is not None and not previous():
                return None
        if VAE_DECODER in lane.engines:
            self._decode(batch)
        if behind is not None and not behind():
            return None
        return self._download(batch)

    def _have_held(self, request: Request) -> None:
        """Have room for the modulations of heads that the request holds; InputError where the bundle lacks parts."""
        lane = self._lane
        for phase, parts in held_components(lane.engines, lane.model, request.sampling).items():
            if phase not in lane.held:
                maker, head = (lane.engines[name] for name in parts)
                lane.held[phase] = HeldBuffers.allocate(lane.device, maker, head, 2 * self._batch)

    def clone(self) -> ResidentRunner:
        """See Runner.clone."""
        networks = self._networks.clone()
        assert networks.lane is not None  # a clone has a lane where its original has one
        return ResidentRunner(networks, networks.lane, self._lane.model, self._batch, self._empty)

    def _report(self, step: Step, should_continue: ShouldContinue, batch: int) -> Callable[[], bool]:
        """Mark the end of a step; return a function that waits for the mark and then asks whether to go on."""
        device, model = self._lane.device, self._lane.model
        wait = device.mark()

        def tokens(address: int, positions: int) -> NDArray[np.float32]:
            found = np.zeros((batch, positions, model.channels), np.float32)
            device.make_current()
            if found.size:
                device.download(address, found)  # waits for all that is queued
            return found

        def report() -> bool:
            wait()
            low = functools.partial(tokens, self._lane.buffers.low_tokens, model.low_positions)
            high = functools.partial(tokens, self._lane.buffers.tokens, model.high_positions)
            preview = Preview(model, low, self._preview_decoder, high if step.phase == "high" else None)
            answer = should_continue(step, preview)
            device.make_current()  # the callback is a user's, who may use another GPU
            return answer

        return report

    def _preview_decoder(self) -> Engine | None:
        """The decoder for previews: of its own, so that the buffers and contexts of the loop's stay as recorded."""
        self._lane.device.make_current()  # the callback is a user's, who may use another GPU
        if self._previews is None and self._networks.vae_decoder is not None:
            self._previews = self._networks.vae_decoder.clone(self._networks.lane)
        return self._previews

    def _decode(self, batch: int) -> None:
        """Queue the way from tokens to pixels, a few images at a time."""
        lane, buffers, model = self._lane, self._lane.buffers, self._lane.model
        n, channels, grid, side = model.high_positions, model.channels, model.grid, model.img_size
        lane.device.launch(
            launches.latents(
                latents=buffers.latents, tokens=buffers.tokens, vae_scale=model.vae_scale,
                batch=batch, n=n, channels=channels,
            )
        )  # fmt: skip

        def part(first: int, count: int) -> None:
            latents = DeviceTensor(buffers.latents + first * channels * n * 4, (count, channels, grid, grid))
            image = buffers.tensor("image", count, 3, side, side)
            lane.engines[VAE_DECODER].enqueue({"latent": latents, "image": image})
            pixels = buffers.pixels + first * side * side * 3
            lane.device.launch(
                launches.pack(pixels=pixels, images=buffers.image, fault=buffers.fault, batch=count, area=side * side)
            )

        for first in range(0, batch, DECODE_BATCH):
            count = min(DECODE_BATCH, batch - first)
            lane.replays.run((VAE_DECODER, first, count), functools.partial(part, first, count))

    def _download(self, batch: int) -> Generated:
        device, buffers, model = self._lane.device, self._lane.buffers, self._lane.model
        low = np.empty((batch, model.low_positions, model.channels), np.float32)
        high = np.empty((batch, model.high_positions, model.channels), np.float32)
        pixels: NDArray[np.uint8] | None = None
        fault = np.zeros(1, np.uint32)
        device.download(buffers.fault, fault)
        if fault[0]:
            raise _not_finite(int(fault[0]), model)
        if low.size:
            device.download(buffers.low_tokens, low)
        device.download(buffers.tokens, high)
        if VAE_DECODER in self._lane.engines:
            pixels = np.empty((batch, model.img_size, model.img_size, 3), np.uint8)
            device.download(buffers.pixels, pixels)
        return generated(model, low, high, pixels)


def _not_finite(word: int, model: ModelInfo) -> EngineError:
    component, step = describe_fault(word)
    found = {
        name: (engine, f" in phase {phase.name}, step {step}")
        for phase in model.phases
        for name, engine in ((phase.transformer, phase.transformer), (HEAD_FAULTS[phase.kind, phase.name], phase.head))
    }
    component, where = found.get(component, (component, ""))
    return not_finite(component, where)
