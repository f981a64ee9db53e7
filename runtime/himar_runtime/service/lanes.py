"""Implements the lanes of a service: who waits, in which order, which requests run together, and on which lane.

All requests wait in one queue. A lane is a pipeline and a thread that takes the oldest one and those that can join it
in one call of the engines. Answers are encoded in a thread of their own while the lane does the next call.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace

from himar_kernels import HimarError
from himar_kernels.shared.cpu_threads import allowed_cpus

from ..pipeline import Pipeline
from ..result import Result
from . import batch
from .answer import Answer
from .job import Job
from .metrics import Metrics
from .policy import Policy
from .request import RefusalError
from .stages import stages

log = logging.getLogger(__name__)

_MOST_ENCODERS = 8


class Lanes:
    """All lanes of a service. Jobs are put and cancelled in the event loop's thread."""

    def __init__(self, pipeline: Pipeline, policy: Policy, metrics: Metrics) -> None:
        """Start lanes on clones of `pipeline`."""
        self._policy = policy
        self._metrics = metrics
        self._changed = threading.Condition()
        self._waiting: list[Job] = []
        self._open: set[Job] = set()
        self._busy = self._running = 0  # lanes at work, and images in their calls
        self._before = 0  # jobs that were open during the last call, if that was of several
        self._closed = False
        self._encoders = ThreadPoolExecutor(max(policy.lanes, min(allowed_cpus(), _MOST_ENCODERS)), "himar-encoder")
        metrics.watch_lanes(lambda: len(self._waiting), lambda: self._busy)
        # Daemons, so that a start that is interrupted ends the process; otherwise `close` ends every thread.
        self._threads = [
            threading.Thread(target=self._work, args=(each,), name=f"himar-lane-{number}", daemon=True)
            for number, each in enumerate([pipeline, *(pipeline.clone() for _ in range(policy.lanes - 1))])
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether every lane has its thread."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def open(self) -> list[Job]:
        """The jobs that are not settled."""
        return list(self._open)

    def put(self, job: Job) -> None:
        """Queue a job. RefusalError (429) when all lanes are at work and as many jobs wait as may."""
        with self._changed:
            if self._policy.is_full(len(self._waiting), self._busy):
                sentence = f"all lanes are at work and {self._policy.most_waiting} requests wait; try again later."
                raise RefusalError(429, sentence, {"Retry-After": "1"})
            self._open.add(job)
            self._waiting.append(job)
            self._changed.notify_all()
        job.answer.add_done_callback(lambda _: self._open.discard(job))

    def cancel(self, job: Job) -> None:
        """Drop a job that waits; one that runs ends at its next step, unless others run with it. It has no outcome."""
        job.cancel()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def close(self) -> None:
        """End every thread after its present call, and wait for that; nothing may be waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._encoders.shutdown()

    def _work(self, pipeline: Pipeline) -> None:
        encoding: list[Future[None]] = []
        while self._turn(pipeline, encoding):
            pass

    def _turn(self, pipeline: Pipeline, encoding: list[Future[None]]) -> bool:
        """Make the next call; False when the lanes are closed. A lane that waits keeps nothing of its last call.

        encoding: what is left of the last call, replaced by what is left of this one.
        """
        jobs = self._next()
        if not jobs:
            return False
        try:
            self._call(pipeline, jobs, encoding)
        except Exception as error:  # the lane must live on: the next request may be fine
            log.exception("a lane failed unexpectedly")
            sentence = f"the request failed with an unexpected {type(error).__name__}; see the log."
            for job in jobs:
                job.deliver(RefusalError(500, sentence))
        return True

    def _call(self, pipeline: Pipeline, jobs: list[Job], encoding: list[Future[None]]) -> None:
        with self._freed(jobs):
            start = time.monotonic()
            for job in jobs:
                job.queued = start - job.accepted
                self._metrics.queue_seconds.observe(job.queued)
            self._metrics.batch_requests.observe(len(jobs))
            self._metrics.batch_images.observe(sum(job.images for job in jobs))
            outcomes = list(batch.run(pipeline, jobs))
        wait(encoding)  # so that results never pile up
        encoding[:] = [self._encoders.submit(self._deliver, job, outcome) for job, outcome in outcomes]

    @contextmanager
    def _freed(self, jobs: list[Job]) -> Iterator[None]:
        """Free the lane at the end, before a client can hear of it: whoever has an answer finds a free lane."""
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._running -= sum(job.images for job in jobs)
                self._changed.notify_all()

    def _next(self) -> list[Job]:
        """Wait for the jobs of the next call; none when the lanes are closed."""
        with self._changed:
            free = time.monotonic()
            while True:
                if self._waiting:
                    jobs = self._policy.choose(self._waiting, self._running)
                    pause = self._policy.pause(jobs, len(self._waiting), self._before, free, time.monotonic())
                    if pause <= 0 or self._closed:
                        self._before = len(self._open) if len(jobs) > 1 else 0
                        self._waiting = [job for job in self._waiting if job not in jobs]
                        self._busy += 1
                        self._running += sum(job.images for job in jobs)
                        return jobs
                    self._changed.wait(pause)
                elif self._closed:
                    return []
                else:
                    self._changed.wait()

    def _deliver(self, job: Job, outcome: batch.Outcome) -> None:
        if job.cancelled:
            return
        if isinstance(outcome, HimarError):
            return job.deliver(outcome)
        try:
            job.deliver(self._encoded(job, *outcome))
        except Exception as error:
            log.exception("an answer could not be encoded")
            sentence = f"the answer could not be written: an unexpected {type(error).__name__}; see the log."
            job.deliver(RefusalError(500, sentence))

    def _encoded(self, job: Job, result: Result, generate: float) -> Answer:
        """Return the answer with the seconds of its stages."""
        assert job.queued is not None
        start = time.perf_counter()
        answer = job.encode(result, job.queued, generate)
        return replace(answer, seconds=stages(job.queued, result.seconds, job.looked, time.perf_counter() - start))
