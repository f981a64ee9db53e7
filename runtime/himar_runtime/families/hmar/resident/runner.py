"""A request on the device from labels to pixels, downloaded once at the end."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from himar_kernels import EngineError
from himar_kernels.arithmetic.launches import pack
from himar_kernels.families.hmar import Codebook, plan
from himar_kernels.families.hmar.faults import describe_fault
from himar_kernels.families.hmar.launches import MOST_CODES
from himar_kernels.families.hmar.sizes import CONDITIONS, MASKED_TAIL, NEXT_SCALE_TAIL, ModelInfo
from himar_kernels.families.registry import VAE_DECODER
from himar_kernels.shared.errors import not_finite
from himar_runtime.decode import DECODE_BATCH
from himar_runtime.encode import EditPreview
from himar_runtime.engines.engine import Engine
from himar_runtime.engines.networks import Networks
from himar_runtime.queue.device import DeviceTensor, ResidentDevice, ResidentEngine
from himar_runtime.queue.replays import Replays
from himar_runtime.result import PreviewSource
from himar_runtime.runner import Generated, ShouldContinue

from ..host import HostRunner, Preview, require_components
from ..loop import Request, Step
from .buffers import FLOAT, Buffers, Vectors
from .constants import Constants
from .lane import Lane, Work
from .loop import begin, queue_scale


class ResidentRunner:
    """One lane: its engines, buffers and recorded graphs. See `himar_runtime.runner.Runner`."""

    def __init__(
        self, networks: Networks, device: ResidentDevice, model: ModelInfo, book: Codebook, batch: int
    ) -> None:
        """Allocate the buffers for `batch` images.

        Raises EngineError when the device has no room, or the model more codes than the kernels draw from.
        """
        if model.vocab > MOST_CODES:
            raise EngineError(
                f"the kernels draw from at most {MOST_CODES:,} codes, and this model has {model.vocab:,}."
            )
        engines: dict[str, ResidentEngine] = networks.resident()
        self._networks, self._book = networks, book
        self._host = HostRunner(networks, model, book)
        self._previews: Engine | None = None
        device.make_current()
        self._lane = Lane(
            device,
            engines,
            model,
            batch,
            Constants.upload(device, book, model.scales),
            Buffers.allocate(device, model, batch),
            Vectors.allocate(device, engines[CONDITIONS].spec, 2 * batch),
            Replays(device, engines.values()),
        )

    def run(self, request: Request, should_continue: ShouldContinue | None) -> Generated | None:
        """See Runner.run. The host waits at the end alone, or with `should_continue` one scale behind the device.

        Smooth previews, which mix all codes' vectors, run on the host with the same engines.
        """
        require_components(self._networks, request.sampling)
        self._lane.device.make_current()
        if request.sampling.smooth:
            return self._host.run(request, should_continue)
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

    def clone(self) -> ResidentRunner:
        """See Runner.clone."""
        networks = self._networks.clone()
        assert networks.lane is not None  # a clone has a lane where its original has one
        return ResidentRunner(networks, networks.lane, self._lane.model, self._book, self._lane.most)

    def _generate(self, request: Request, should_continue: ShouldContinue | None) -> Generated | None:
        forwards = plan(request.sampling, self._lane.model.scales)
        work = begin(self._lane, request, forwards, self._host.kept(request))
        behind: Callable[[], bool] | None = None
        for scale, own in itertools.groupby(forwards, lambda forward: forward.scale):
            queue_scale(work, list(own))
            if should_continue is None:
                continue
            previous, behind = behind, self._report(work, scale, should_continue)
            if previous is not None and not previous():
                return None
        self._decode(work)
        if behind is not None and not behind():
            return None
        return self._download(work)

    def _report(self, work: Work, scale: int, should_continue: ShouldContinue) -> Callable[[], bool]:
        """Keep a scale's latent and mark its end; return a function that waits for it and asks whether to go on."""
        device, buffers = self._lane.device, self._lane.buffers
        kept = buffers.preview_at(scale)
        device.copy(kept, buffers.latent, self._latents(work.batch).nbytes)
        wait = device.mark()

        def latent() -> NDArray[np.float32]:
            found = self._latents(work.batch)
            device.make_current()
            device.download(kept, found)
            return found

        def report() -> bool:
            wait()
            preview: PreviewSource = Preview(latent, self._preview_decoder)
            if work.request.edit is not None:
                preview = EditPreview(preview, work.request.edit)
            answer = should_continue(Step(f"scale {scale + 1}"), preview)
            device.make_current()  # the callback is a user's, who may use another GPU
            return answer

        return report

    def _preview_decoder(self) -> Engine:
        """The decoder for previews: of its own, so that the buffers and contexts of the loop's stay as recorded."""
        self._lane.device.make_current()  # the callback is a user's, who may use another GPU
        if self._previews is None:
            self._previews = self._networks[VAE_DECODER].clone(self._networks.lane)
        return self._previews

    def _decode(self, work: Work) -> None:
        """Queue the way from latents to pixels, a few images at a time."""
        lane, buffers, model = self._lane, self._lane.buffers, self._lane.model
        channels, grid, side = model.latent_channels, model.scales.side, model.img_size
        size = channels * grid**2 * FLOAT

        def part(first: int, count: int) -> None:
            # An image's latent may begin where engines take no tensor.
            lane.device.copy(buffers.grid, buffers.latent + first * size, count * size)
            image = buffers.tensor("image", count, 3, side, side)
            latent = DeviceTensor(buffers.grid, (count, channels, grid, grid))
            lane.engines[VAE_DECODER].enqueue({"latent": latent, "image": image})
            pixels = buffers.pixels + first * side * side * 3
            lane.device.launch(
                pack(pixels=pixels, images=buffers.image, fault=buffers.fault, batch=count, area=side * side)
            )

        for first in range(0, work.batch, DECODE_BATCH):
            count = min(DECODE_BATCH, work.batch - first)
            lane.replays.run((VAE_DECODER, first, count), functools.partial(part, first, count))

    def _download(self, work: Work) -> Generated:
        device, buffers, model = self._lane.device, self._lane.buffers, self._lane.model
        batch, scales = work.batch, model.scales
        fault = np.zeros(1, np.uint32)
        device.download(buffers.fault, fault)
        if fault[0]:
            raise _not_finite(int(fault[0]))
        codes, latents = np.empty(batch * scales.tokens, np.int64), self._latents(batch)
        pixels = np.empty((batch, model.img_size, model.img_size, 3), np.uint8)
        device.download(buffers.codes, codes)
        device.download(buffers.latent, latents)
        device.download(buffers.pixels, pixels)
        parts = np.split(codes, [batch * start for start in scales.starts[1:]])
        joined = np.concatenate([part.reshape(batch, -1) for part in parts], axis=1)
        edit = work.request.edit
        return Generated(latents, pixels if edit is None else edit.paste(pixels), {"codes": joined})

    def _latents(self, batch: int) -> NDArray[np.float32]:
        side = self._lane.model.scales.side
        return np.empty((batch, self._lane.model.latent_channels, side, side), np.float32)


def _not_finite(word: int) -> EngineError:
    component, scale = describe_fault(word)
    return not_finite(component, f" at scale {scale + 1}" if component in (NEXT_SCALE_TAIL, MASKED_TAIL) else "")
