"""Implements the service apart from HTTP: its lanes, who waits for what, timeouts, and how it ends.

A lane is a pipeline, a thread and a bounded queue; a request goes to the least busy lane.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from himar_kernels import HimarError
from himar_kernels.families.registry import TEXT_ENCODER

from ..engines.engine import Device
from ..engines.networks import load_networks, open_bundle
from ..pipeline import Pipeline, himar_version
from ..result import Result
from .answer import Answer
from .job import Encode, Job, Look
from .metrics import CancelReason, Metrics
from .openai.models import model_name
from .request import ImagesRequest, RefusalError
from .stages import stages

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
        tokens: of which each request of images or models has to carry one; none: it need not.
        root_path: what a proxy may put before each path, "" or "/PART…".
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
    tokens: tuple[str, ...] = field(default=(), repr=False)
    root_path: str = ""


class ClientGoneError(Exception):
    """The client went away before its answer: there is nobody to answer."""


class Service:
    """A loaded bundle on its lanes. Its coroutines run in one event loop."""

    def __init__(self, settings: Settings) -> None:
        """Load the bundle and start the lanes. Raises BundleError or EngineError."""
        self.settings = settings
        device = Device.parse(settings.device)
        bundle = open_bundle(settings.bundle, device)
        networks = load_networks(bundle, device, settings.threads, settings.backend)
        self.manifest = bundle.manifest
        self.bundle_id = bundle.id
        self.name = model_name(settings.bundle)
        self.version = himar_version()
        self.metrics = Metrics(self.version, bundle.id, str(device), settings.timeout)
        self.draining = False
        self._hurry = asyncio.Event()
        self._lanes = Lanes(Pipeline(bundle, networks), settings.lanes, settings.queue, self.metrics)

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
        RefusalError: 503 when the service ends, 429 when every lane's queue is full.
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
        self._lanes.cancel(job)
        self.metrics.cancelled.labels(reason).inc()
        job.settle(error)


async def _settled(jobs: list[Job]) -> None:
    if jobs:
        await asyncio.wait([job.answer for job in jobs])


class Lane:
    """One pipeline, one thread, and the jobs that wait for them."""

    def __init__(self, pipeline: Pipeline, number: int, metrics: Metrics) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._waiting: deque[Job] = deque()
        self._busy = False
        self._closed = False
        self._changed = threading.Condition()
        # A daemon, so that a start that is interrupted ends the process; otherwise `close` ends every thread.
        self._thread = threading.Thread(target=self._work, name=f"himar-lane-{number}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of jobs that wait."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether the lane works on a job."""
        return self._busy

    @property
    def load(self) -> int:
        """Number of jobs that wait, and the one that it works on."""
        with self._changed:
            return len(self._waiting) + self._busy

    def put(self, job: Job) -> None:
        """Queue a job."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    def drop(self, job: Job) -> None:
        """Take a job out of the queue if it still waits there."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def close(self) -> None:
        """End the thread after its present job; nothing may be waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            outcome = None
            try:
                outcome = self._run(job)
            finally:  # Before the client can hear of it: whoever has an answer finds a free lane.
                with self._changed:
                    self._busy = False
            if outcome is not None:
                job.deliver(outcome)

    def _next(self) -> Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            self._busy = True
            return self._waiting.popleft()

    def _run(self, job: Job) -> Answer | HimarError | None:
        """Return a job's answer, or why there is none; None when it was cancelled."""
        start = time.monotonic()
        job.queued = start - job.accepted
        self._metrics.queue_seconds.observe(job.queued)
        request = job.request
        try:
            result = self._pipeline.generate(
                request.labels,
                prompts=request.prompts,
                seed=request.seed,
                sampling=request.sampling,
                first_index=request.first_index,
                on_step=job.should_continue,
            )
            if result.status == "complete":
                return self._encoded(job, result, job.queued, time.monotonic() - start)
            return None
        except HimarError as error:
            return error
        except Exception as error:
            # The lane must live on: the next request may be fine.
            log.exception("a request failed unexpectedly")
            return RefusalError(500, f"the request failed with an unexpected {type(error).__name__}; see the log.")

    def _encoded(self, job: Job, result: Result, queued: float, generate: float) -> Answer:
        """Return the answer with the seconds of its stages, which are counted."""
        start = time.perf_counter()
        answer = job.encode(result, queued, generate)
        seconds = stages(queued, result.seconds, job.looked, time.perf_counter() - start)
        for stage, each in seconds.items():
            self._metrics.stage_seconds.labels(stage).observe(each)
        return replace(answer, seconds=seconds)


class Lanes:
    """All lanes of a service. Jobs are put and cancelled in the event loop's thread."""

    def __init__(self, pipeline: Pipeline, count: int, queue: int, metrics: Metrics) -> None:
        """Start `count` lanes on clones of `pipeline`, each with at most `queue` jobs that wait for another."""
        self._queue = queue
        self._at: dict[Job, Lane] = {}
        pipelines = [pipeline, *(pipeline.clone() for _ in range(count - 1))]
        self._lanes = [Lane(each, number, metrics) for number, each in enumerate(pipelines)]
        metrics.watch_lanes(
            lambda: sum(lane.waiting for lane in self._lanes), lambda: sum(lane.busy for lane in self._lanes)
        )

    @property
    def open(self) -> list[Job]:
        """The jobs that are not settled."""
        return list(self._at)

    def put(self, job: Job) -> None:
        """Queue a job at the lane with the least load, the first of equals. RefusalError (429) when all are full."""
        loads = [lane.load for lane in self._lanes]
        least = min(loads)
        if least > self._queue:
            waiting = self._queue * len(self._lanes)
            raise RefusalError(
                429, f"all lanes are at work and {waiting} requests wait; try again later.", {"Retry-After": "1"}
            )
        lane = self._lanes[loads.index(least)]
        self._at[job] = lane
        job.answer.add_done_callback(lambda _: self._at.pop(job, None))
        lane.put(job)

    def cancel(self, job: Job) -> None:
        """Drop a job that waits; stop one that runs at its next step. Its lane delivers nothing for it."""
        job.cancel()
        lane = self._at.get(job)
        if lane is not None:
            lane.drop(job)

    def close(self) -> None:
        """End every thread after its present job, and wait for that."""
        for lane in self._lanes:
            lane.close()
        for lane in self._lanes:
            lane.join()
