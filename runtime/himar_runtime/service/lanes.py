"""Runs lanes: a pipeline, a thread and a bounded queue each. A request goes to the least busy lane."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from himar_kernels import HimarError

from ..pipeline import Pipeline
from .answer import encode
from .job import Job
from .metrics import Metrics
from .request import RefusalError

log = logging.getLogger(__name__)


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
            try:
                self._run(job)
            finally:
                with self._changed:
                    self._busy = False

    def _next(self) -> Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            self._busy = True
            return self._waiting.popleft()

    def _run(self, job: Job) -> None:
        start = time.monotonic()
        job.queued = start - job.accepted
        self._metrics.queue_seconds.observe(job.queued)
        request = job.request
        try:
            result = self._pipeline.generate(
                request.labels,
                seed=request.seed,
                sampling=request.sampling,
                first_index=request.first_index,
                on_step=job.should_continue,
            )
            if result.status == "complete":
                job.deliver(encode(request, result, job.queued, time.monotonic() - start))
        except HimarError as error:
            job.deliver(error)
        except Exception as error:
            # The lane must live on: the next request may be fine.
            log.exception("a request failed unexpectedly")
            job.deliver(
                RefusalError(500, f"the request failed with an unexpected {type(error).__name__}; see the log.")
            )


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
