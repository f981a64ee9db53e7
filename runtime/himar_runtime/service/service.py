"""Implements the service apart from HTTP: what it serves, who waits for what, timeouts, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from himar_kernels import EngineError, InputError
from himar_kernels.families.registry import TEXT_ENCODER

from ..engines.engine import Device
from ..engines.networks import load_networks, open_bundle
from ..memory.room import fitting_batch, require_room
from ..pipeline import Pipeline, himar_version
from .answer import Answer
from .job import Encode, Job, Look
from .lanes import Lanes
from .metrics import CancelReason, Metrics
from .openai.models import model_name
from .policy import Policy
from .request import ImagesRequest, RefusalError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How to serve a bundle.

    Attributes:
        bundle: the folder.
        lanes: calls of the engines that run at once.
        device, threads, backend: as for Pipeline.load; backend None is the one that the bundle was built for.
        queue: requests that may wait per lane.
        max_batch: most images of requests that run in one call; None is the bundle's own maximum, or what there is
            memory for where that is less, said in the log; 1 joins none.
        queue_delay: seconds that a request waits at most for others to join it.
        max_images: most images of one request.
        max_body: most bytes of a request's body.
        timeout: seconds from acceptance to answer.
        drain_seconds: seconds that a stopping service gives to the requests it has accepted.
        keep_alive: seconds that a connection may be idle between two requests; 0 closes each after its answer.
        allow_origin: origins whose pages may use the service from a browser; "*" for all.
        tokens: of which each request of images or models has to carry one; none: it need not.
        root_path: what a proxy may put before each path, "" or "/PART…".
    """

    bundle: Path
    lanes: int = 1
    device: str = "cpu"
    threads: int | None = None
    backend: str | None = None
    queue: int = 64
    max_batch: int | None = None
    queue_delay: float = 0.005
    max_images: int = 64
    max_body: int = 1_048_576
    timeout: float = 60.0
    drain_seconds: float = 30.0
    keep_alive: float = 75.0
    allow_origin: tuple[str, ...] = ()
    tokens: tuple[str, ...] = field(default=(), repr=False)
    root_path: str = ""


class ClientGoneError(Exception):
    """The client went away before its answer: there is nobody to answer."""


class Service:
    """A loaded bundle on its lanes. Its coroutines run in one event loop."""

    def __init__(self, settings: Settings) -> None:
        """Load the bundle and start the lanes.

        Raises BundleError; EngineError, also where its lanes clearly have no room; InputError for a batch that is
        larger than the bundle's.
        """
        self.settings = settings
        device = Device.parse(settings.device)
        bundle = open_bundle(settings.bundle, device)
        largest = bundle.manifest.max_batch
        asked = settings.max_batch or 0
        if asked > largest:
            raise InputError(
                f"batches of {asked} images are asked for, but this bundle's engines take at most {largest}; give "
                f"--max-batch {largest} or less, or build the bundle again with a larger one."
            )
        lanes, backend = settings.lanes, settings.backend
        max_batch = asked or fitting_batch(bundle, device, lanes=lanes, backend=backend)
        require_room(bundle, device, images=max_batch, lanes=lanes, backend=backend)
        networks = load_networks(bundle, device, settings.threads, backend)
        self.manifest = bundle.manifest
        self.bundle_id = bundle.id
        self.name = model_name(settings.bundle)
        self.version = himar_version()
        self.metrics = Metrics(self.version, bundle.id, str(device), settings.timeout)
        self.draining = False
        self._hurry = asyncio.Event()
        policy = Policy(lanes, settings.queue, max_batch, settings.queue_delay)
        self._lanes = Lanes(Pipeline(bundle, networks), policy, self.metrics)

    def describe(self) -> dict[str, Any]:
        """Return what GET /v1/model answers."""
        shape = self.manifest.model.context_shape
        takes = {} if shape is None else {"context": "text", "prompts": TEXT_ENCODER in self.manifest.components}
        names = self.manifest.class_names
        return {
            "name": self.name,
            "bundle": self.bundle_id,
            "classes": self.manifest.model.classes,
            **({} if names is None else {"class_names": list(names)}),
            **takes,
            "image_size": self.manifest.model.img_size,
            "max_batch": self.manifest.max_batch,
            "has_decoder": "vae_decoder" in self.manifest.components,
            "sampling": list(self.manifest.sampling),
            "lanes": self.settings.lanes,
            "version": self.version,
        }

    def accept(self, request: ImagesRequest, encode: Encode, look: Look | None = None) -> Job:
        """Queue a request; encode and look are those of `Job`.

        Its answer is a RefusalError (504) when its time is up, whether anyone waits for it then or not.
        RefusalError: 503 when the service ends, 429 when the queue is full.
        """
        self.refuse_when_draining()
        job = Job(request, encode, look)
        self._lanes.put(job)
        expiry = asyncio.get_running_loop().call_later(self.settings.timeout, self._expire, job)
        job.answer.add_done_callback(lambda _: expiry.cancel())
        return job

    def refuse_when_draining(self) -> None:
        """Raise RefusalError (503) when the service was told to stop."""
        if self.draining:
            raise RefusalError(
                503, "this server is shutting down; send the request to another.", {"Connection": "close"}
            )

    async def answer(self, job: Job, disconnected: Callable[[], Awaitable[None]]) -> Answer:
        """Wait for a job's answer.

        Args:
            disconnected: returns when the client has gone.

        Raises RefusalError (504) when its time is up, ClientGoneError, and what the work raised.
        """
        gone: asyncio.Future[Any] = asyncio.ensure_future(disconnected())
        try:
            while not isinstance(found := await self.next(job, gone), Answer):
                pass
            return found
        finally:
            gone.cancel()
            self.abandon(job)  # of a client that went away as Ray Serve says it: by cancelling this

    async def next(self, job: Job, gone: asyncio.Future[Any], pause: float | None = None) -> bytes | Answer | None:
        """Wait for what a job's look finds next, or for its answer; None when there is neither for `pause` seconds.

        Args:
            gone: done when the client has gone.

        Raises what `answer` raises.
        """
        if not job.shown and not job.answer.done():
            changed: asyncio.Future[Any] = asyncio.ensure_future(job.changed.wait())
            await asyncio.wait({changed, gone}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
        if gone.done():
            self.abandon(job)
            raise ClientGoneError
        job.changed.clear()
        if job.shown:
            return job.shown.popleft()
        if not job.answer.done():
            return None
        answer = job.answer.result()
        self.metrics.images.inc(answer.images)
        for stage, seconds in answer.seconds.items():
            self.metrics.stage_seconds.labels(stage).observe(seconds)
        return answer

    def abandon(self, job: Job) -> None:
        """Stop a job whose client has gone; one that is settled stays so."""
        if not job.answer.done():
            self._lanes.cancel(job)
            self.metrics.cancelled.labels("disconnect").inc()
            job.answer.cancel()
        elif not job.answer.cancelled():
            job.answer.exception()  # nobody will take it: it is not to be reported as forgotten

    async def drain(self) -> None:
        """Refuse new requests, finish the accepted ones within drain_seconds, cancel what is left, end the lanes."""
        self.draining = True
        jobs = self._lanes.open
        log.info("draining: %d accepted requests, at most %g s", len(jobs), self.settings.drain_seconds)
        hurry: asyncio.Future[Any] = asyncio.ensure_future(self._hurry.wait())
        finished: asyncio.Future[Any] = asyncio.ensure_future(_settled(jobs))
        await asyncio.wait({hurry, finished}, timeout=self.settings.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        finished.cancel()
        for job in self._lanes.open:
            reason = "this server is shutting down and could not finish the request; send it to another."
            self._end(job, "drain", RefusalError(503, reason))
        await asyncio.to_thread(self._lanes.close)

    @property
    def broken(self) -> bool:
        """Whether a lane has ended, though nobody told it to: the service needs a new start."""
        return not self.draining and not self._lanes.alive

    def require_lanes(self) -> None:
        """Raise EngineError when the service is broken."""
        if self.broken:
            raise EngineError("a lane of this service has ended unexpectedly; its log says why: start it again.")

    def hurry(self) -> None:
        """End a drain at once."""
        self._hurry.set()

    def close(self) -> None:
        """End the lanes' threads; a drain has done so already."""
        self._lanes.close()

    def _expire(self, job: Job) -> None:
        sentence = (
            f"no answer within {self.settings.timeout:g} s, so the request was cancelled; ask for fewer images or "
            f"steps, or try again when less is waiting."
        )
        self._end(job, "timeout", RefusalError(504, sentence))

    def _end(self, job: Job, reason: CancelReason, error: RefusalError) -> None:
        if job.answer.done():  # just now: who waits for it is told in the loop's next turn, and so is the timer
            return
        self._lanes.cancel(job)
        self.metrics.cancelled.labels(reason).inc()
        job.settle(error)


async def _settled(jobs: list[Job]) -> None:
    if jobs:
        await asyncio.wait([job.answer for job in jobs])
