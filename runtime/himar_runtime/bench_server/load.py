"""Puts load on a server: as many clients as asked for, or requests at a rate, whatever the server makes of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from himar_kernels import InputError

from .client import Answered, Wanted, ask, calls, describe


@dataclass(frozen=True)
class Load:
    """What is sent.

    Attributes:
        url: of the server, http://HOST:PORT or with a path.
        requests: how many are measured, after `warm_up` that are not.
        concurrency: clients, each of which asks again when it is answered.
        rate: requests a second in place of clients, at random times (a Poisson process).
        labels, prompts: what the images show, in turns; neither: every class.
        seed: of the first request's images; those after it count on. It chooses the times of a rate, too.
        token: that the server wants.
        timeout: seconds that a client waits for an answer.
    """

    url: str
    wanted: Wanted
    requests: int = 100
    warm_up: int = 4
    concurrency: int = 1
    rate: float | None = None
    labels: Sequence[int] = ()
    prompts: Sequence[str] = ()
    seed: int = 0
    token: str | None = None
    timeout: float = 600.0


@dataclass(frozen=True)
class Measured:
    """What came of a load.

    Attributes:
        model: what the server says of its model.
        answers: of each request, in the order of their ends.
        seconds: from the first request to the last answer.
        calls: of the engines meanwhile, with the requests and images in them; None where the server does not say.
    """

    model: dict[str, Any]
    answers: list[Answered]
    seconds: float
    calls: tuple[float, float, float] | None


async def run(load: Load, advance: Callable[[int], None]) -> Measured:
    """Send a load and return what came of it; advance is told of each answer.

    Raises InputError where no himar-serve answers, or its model is not asked for what it makes.
    """
    async with _session(load) as session:
        model = await describe(session, load.url)
        bodies = _bodies(load, model)
        for _ in range(load.warm_up):
            await ask(session, load.url, load.wanted, next(bodies), time.perf_counter())
        before = await calls(session, load.url)
        answers: list[Answered] = []

        async def send(due: float) -> None:
            answers.append(await ask(session, load.url, load.wanted, next(bodies), due))
            advance(1)

        start = time.perf_counter()
        await (_clients(load, send) if load.rate is None else _arrivals(load, send))
        seconds = time.perf_counter() - start
        after = await calls(session, load.url)
    if before is None or after is None or any(later < earlier for later, earlier in zip(after, before, strict=True)):
        return Measured(model, answers, seconds, None)  # or it was started again meanwhile
    count, requests, images = (later - earlier for later, earlier in zip(after, before, strict=True))
    return Measured(model, answers, seconds, (count, requests, images))


async def _clients(load: Load, send: Callable[[float], Any]) -> None:
    left = iter(range(load.requests))

    async def client() -> None:
        for _ in left:
            await send(time.perf_counter())

    await asyncio.gather(*(client() for _ in range(min(load.concurrency, load.requests))))


async def _arrivals(load: Load, send: Callable[[float], Any]) -> None:
    """Send each request when it is due, whether those before it are answered or not; seconds count from then."""
    assert load.rate is not None
    choice = random.Random(load.seed)
    due = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(load.requests):
            due += choice.expovariate(load.rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(send(due))


def _bodies(load: Load, model: dict[str, Any]) -> Iterator[bytes]:
    """Return the bodies of all requests. InputError when the model does not make what is asked for."""
    from_text = model.get("context") == "text"
    if from_text != bool(load.prompts):
        wants = "--prompt or --prompts-file" if from_text else "--labels, or nothing for every class"
        raise InputError(f"the server's model makes images {'from text' if from_text else 'of classes'}; give {wants}.")
    shown: Sequence[Any] = load.prompts or load.labels or range(model["classes"])
    return _endless(load, shown)


def _endless(load: Load, shown: Sequence[Any]) -> Iterator[bytes]:
    place = 0
    while True:
        what = [shown[(place + image) % len(shown)] for image in range(load.wanted.images)]
        yield load.wanted.body(what, (load.seed + place) % 2**64)
        place += 1


@asynccontextmanager
async def _session(load: Load) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {} if load.token is None else {"Authorization": f"Bearer {load.token}"}
    limit = aiohttp.ClientTimeout(total=load.timeout)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=limit, headers=headers, read_bufsize=1 << 22
    ) as session:
        yield session
