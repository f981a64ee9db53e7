"""Implements the service apart from HTTP: what it serves, who waits for what, timeouts, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.bundle import Bundle
from ..engines.engine import Device
from ..engines.networks import load_networks
from ..pipeline import Pipeline, himar_version
from .answer import Answer
from .job import Job
from .lanes import Lanes
from .metrics import CancelReason, Metrics
from .request import ImagesRequest, RefusalError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How to serve a bundle.

    Attributes:
        bundle: the folder.
        lanes: requests that run at once.
        device, threads, backend: as for Pipeline.load; backend None is the one that the bundle was built for.
        queue: requests that may wait per lane.
        max_images: most images of one request.
        max_body: most bytes of a request's body.
        timeout: seconds from acceptance to answer.
        drain_seconds: seconds that a stopping service gives to the requests it has accepted.
        keep_alive: seconds that a connection may be idle between two requests; 0 closes each after its answer.
        allow_origin: origins whose pages may use the service from a browser; "*" for all.
    """

    bundle: Path
    lanes: int = 1
    device: str = "cpu"
    threads: int | None = None
    backend: str | None = None
    queue: int = 16
    max_images: int = 64
    max_body: int = 1_048_576
    timeout: float = 60.0
    drain_seconds: float = 30.0
    keep_alive: float = 75.0
    allow_origin: tuple[str, ...] = ()


class ClientGoneError(Exception):
    """The client went away before its answer: there is nobody to answer."""


class Service:
    """A loaded bundle on its lanes. Its coroutines run in one event loop."""

    def __init__(self, settings: Settings) -> None:
        """Load the bundle and start the lanes. Raises BundleError or EngineError."""
        self.settings = settings
        device = Device.parse(settings.device)
        bundle = Bundle.open(settings.bundle)
        networks = load_networks(bundle, device, settings.threads, settings.backend)
        self.manifest = bundle.manifest
        self.bundle_id = bundle.id
        self.version = himar_version()
        self.metrics = Metrics(self.version, bundle.id, str(device), settings.timeout)
        self.draining = False
        self._hurry = asyncio.Event()
        self._lanes = Lanes(Pipeline(bundle, networks), settings.lanes, settings.queue, self.metrics)

    def describe(self) -> dict[str, Any]:
        """Return what GET /v1/model answers."""
        return {
            "bundle": self.bundle_id,
            "classes": self.manifest.model.classes,
            "image_size": self.manifest.model.img_size,
            "max_batch": self.manifest.max_batch,
            "has_decoder": "vae_decoder" in self.manifest.components,
            "sampling": list(self.manifest.sampling),
            "lanes": self.settings.lanes,
            "version": self.version,
        }

    def accept(self, request: ImagesRequest) -> Job:
        """Queue a request. RefusalError: 503 when the service ends, 429 when every lane's queue is full."""
        self.refuse_when_draining()
        job = Job(request)
        self._lanes.put(job)
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
        left = job.accepted + self.settings.timeout - time.monotonic()
        try:
            either: set[asyncio.Future[Any]] = {job.answer, gone}
            await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if gone.done() and not gone.cancelled():
            self._cancel(job, "disconnect")
            raise ClientGoneError
        if not job.answer.done():
            self._cancel(job, "timeout")
            raise RefusalError(
                504,
                f"no answer within {self.settings.timeout:g} s, so the request was cancelled; ask for fewer images "
                f"or steps, or try again when less is waiting.",
            )
        answer = job.answer.result()
        self.metrics.images.inc(answer.images)
        return answer

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
            self._lanes.cancel(job)
            self.metrics.cancelled.labels("drain").inc()
            reason = "this server is shutting down and could not finish the request; send it to another."
            job.settle(RefusalError(503, reason))
        await asyncio.to_thread(self._lanes.close)

    def hurry(self) -> None:
        """End a drain at once."""
        self._hurry.set()

    def close(self) -> None:
        """End the lanes' threads; a drain has done so already."""
        self._lanes.close()

    def _cancel(self, job: Job, reason: CancelReason) -> None:
        if not job.answer.done():
            self._lanes.cancel(job)
            self.metrics.cancelled.labels(reason).inc()
            job.answer.cancel()
        elif not job.answer.cancelled():
            job.answer.exception()  # nobody will take it: it is not to be reported as forgotten


async def _settled(jobs: list[Job]) -> None:
    if jobs:
        await asyncio.wait([job.answer for job in jobs])
