"""Lanes from inside, where HTTP cannot show it: what a lane keeps, what it outlives, and what is counted once."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import time
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from himar_runtime.result import Progress, Result
from himar_runtime.service import batch
from himar_runtime.service.answer import JSON, Answer
from himar_runtime.service.job import Job
from himar_runtime.service.openai.request import read_generation
from himar_runtime.service.openai.stream import Partials
from himar_runtime.service.request import RefusalError, read_request
from himar_runtime.service.server import create_app
from himar_runtime.service.service import Service, Settings

QUICK = {"low_steps": 1, "high_steps": 1, "low_diffusion_steps": 2, "high_diffusion_steps": 2}


def with_service(bundle: Path, check: Callable[[Service], Awaitable[None]], **options: Any) -> None:
    """Run a check with a service of one lane, and end it."""

    async def run() -> None:
        service = Service(Settings(bundle, threads=1, **options))
        try:
            await check(service)
        finally:
            await service.drain()

    asyncio.run(run())


def accepted(service: Service, encode: Callable[[Result, float, float], Answer], label: int = 1) -> Job:
    body = json.dumps({"labels": [label], **QUICK}).encode()
    return service.accept(read_request(body, "", service.manifest, 4), encode)


async def never() -> None:
    await asyncio.Event().wait()


def sample(service: Service, name: str) -> float:
    return next(
        float(line.rpartition(" ")[2]) for line in service.metrics.text().decode().splitlines() if line.startswith(name)
    )


def test_a_lane_that_waits_keeps_nothing_of_its_last_call(bundle_path: Path) -> None:
    async def check(service: Service) -> None:
        results = []

        def encode(result: Result, queued: float, generate: float) -> Answer:
            results.append(weakref.ref(result))
            return Answer(b"{}", JSON, 1)

        await service.answer(accepted(service, encode), never)
        for _ in range(100):
            gc.collect()
            if results[0]() is None:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the result is kept while the lane waits")

    with_service(bundle_path, check)


def test_a_lane_outlives_what_nobody_expects(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a limit of threads, which a container may set: encoders are started when they are first needed."""

    async def check(service: Service) -> None:
        encoders = service._lanes._encoders
        with monkeypatch.context() as patch:
            patch.setattr(encoders, "_adjust_thread_count", _no_thread)
            with pytest.raises(RefusalError, match="the request failed with an unexpected RuntimeError; see the log"):
                await service.answer(accepted(service, _empty), never)
        assert not service.broken and sample(service, "himar_lanes_busy") == 0
        assert (await service.answer(accepted(service, _empty), never)).images == 1

    with_service(bundle_path, check)


def _no_thread() -> None:
    raise RuntimeError("can't start new thread")


def _empty(result: Result, queued: float, generate: float) -> Answer:
    return Answer(b"{}", JSON, 1)


class Held:
    """Something that a call has in memory."""


def test_a_failed_call_holds_nothing_while_its_requests_run_again(bundle_path: Path, pipeline: Any) -> None:
    """It may have failed for want of memory."""
    held: list[weakref.ref[Held]] = []
    kept: list[Held | None] = []

    def look(step: Progress) -> None:
        if not held:
            mine = Held()
            held.append(weakref.ref(mine))
            raise MemoryError
        kept.append(held[0]())

    async def check(service: Service) -> None:
        body = json.dumps({"labels": [1], **QUICK}).encode()
        request = read_request(body, "", service.manifest, 4)
        jobs = [Job(request, _empty, look), Job(request, _empty)]
        outcomes = list(batch.run(pipeline, jobs))
        assert [job for job, _ in outcomes] == jobs and all(isinstance(found, tuple) for _, found in outcomes)
        assert kept == [None, None]

    with_service(bundle_path, check)


def test_what_was_answered_in_time_is_not_counted_as_cancelled_too(bundle_path: Path) -> None:
    """The answer and the end of its time, or of a drain, in the same turn of the event loop."""

    async def check(service: Service) -> None:
        job = accepted(service, _empty)
        job.settle(Answer(b"{}", JSON, 1))
        service._expire(job)
        assert (await service.answer(job, never)).images == 1
        assert sample(service, 'himar_cancelled_total{reason="timeout"}') == 0

    with_service(bundle_path, check)


def test_stages_are_counted_of_what_was_answered_with_images(bundle_path: Path) -> None:
    """One whose time ends while it is encoded has no images."""

    async def check(service: Service) -> None:
        def encode(result: Result, queued: float, generate: float) -> Answer:
            time.sleep(1.5)
            return _empty(result, queued, generate)

        with pytest.raises(RefusalError, match=r"no answer within 0\.5 s"):
            await service.answer(accepted(service, encode), never)
        await service.drain()
        assert "himar_stage_seconds_count" not in service.metrics.text().decode()

    with_service(bundle_path, check, timeout=0.5)


async def get(app: FastAPI, path: str) -> tuple[int, Any]:
    """Ask an application without a network; return the status and the JSON."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent))


def test_a_server_whose_lane_has_ended_says_so(bundle_path: Path) -> None:
    async def check(service: Service) -> None:
        app = create_app(service)
        assert await get(app, "/healthz") == (200, {"status": "ok"})
        assert await get(app, "/v2/health/live") == (200, {"live": True})
        service.close()  # nobody was told that the service ends
        assert await get(app, "/healthz") == (503, {"status": "broken"})
        assert await get(app, "/v2/health/live") == (503, {"live": False})
        assert await get(app, "/v2/health/ready") == (503, {"ready": False})

    with_service(bundle_path, check)


def test_a_request_that_runs_again_shows_no_step_twice(pipeline: Any) -> None:
    manifest = pipeline.bundle.manifest
    body = {"prompt": "1", "stream": True, "partial_images": 2, "seed": 1}
    asked = read_generation(json.dumps(body).encode(), manifest, ("tiny",), 4)
    partials = Partials(asked, manifest)
    shown: list[int] = []

    def look(step: Progress, most: int) -> bool:
        if partials(step) is not None:
            shown.append(step.done)
        return len(shown) < most

    for most in (1, 3):  # cut short after its first image, as by a failure; then all over again
        pipeline.generate([1], on_step=functools.partial(look, most=most))
    assert len(shown) == len(set(shown)) == 2
