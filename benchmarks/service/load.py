"""Puts load on himar-serve from another process and checks it: no crash, no leak, every accepted request answered.

    python -m benchmarks.service.load demo/digits                                  # the Python server
    python -m benchmarks.service.load demo/digits --server build/cpp/release/service/himar-serve

Starts the server at a free port of 127.0.0.1, sends requests with random labels, seeds and steps over connections that
are kept open, some of them bad, some of clients that go away; sends again what found the queues full; compares images
that were asked for more than once, in the end with the same requests one at a time; watches the server's memory; then
fills it with requests and sends SIGTERM. Exit code 0 only if everything held.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import click
import numpy as np

from benchmarks.service.process import PYTHON, Server, memory_growth, metrics, running
from benchmarks.service.traffic import Images, Planned, largest_request, plan_requests

FLAT = 1.05  # Most that memory may grow from the second fifth of a run to the last,
LONG = 2000  # where it has so many requests; a shorter one says little.


@dataclass
class Tally:
    """What the clients saw. failures: one line each for what must not happen."""

    outcomes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    images: Images = field(default_factory=Images)
    left: int = 0


async def send(session: aiohttp.ClientSession, url: str, planned: Planned, tally: Tally) -> float | None:
    """Send one request and note what came of it; return the seconds after which it is to be sent again, or None."""
    if planned.half:
        await send_half(url, planned)
        tally.left += 1
        tally.outcomes["left in the middle of its body"] += 1
        return None
    start = time.perf_counter()
    try:
        async with asyncio.timeout(planned.leaves):
            async with session.post("/v1/images", data=planned.body, headers=planned.headers) as response:
                status, body = response.status, await response.read()
                again = response.headers.get("Retry-After")
    except TimeoutError:
        if planned.leaves is None:
            tally.failures.append(f"{planned.kind}: no answer in {time.perf_counter() - start:.0f} s")
            return None
        tally.left += 1
        tally.outcomes["left before its answer"] += 1
        return None
    except aiohttp.ClientError as error:
        tally.failures.append(f"{planned.kind}: no answer ({type(error).__name__}: {error})")
        return None
    tally.statuses[status] += 1
    judge(planned, status, body, time.perf_counter() - start, tally)
    return float(again) if status == 429 and again and planned.leaves is None else None


def judge(planned: Planned, status: int, body: bytes, seconds: float, tally: Tally) -> None:
    """Check an answer."""
    if status == 429 and planned.status == 200:
        tally.outcomes["429, queues full: sent again"] += 1
    elif status != planned.status:
        tally.failures.append(f"{planned.kind}: {status} in place of {planned.status}: {body[:200]!r}")
    elif status == 200:
        tally.outcomes["200"] += 1
        tally.seconds.append(seconds)
        if planned.leaves is None:
            tally.images.add(planned, body)
    else:
        tally.outcomes[f"{status} to a bad request"] += 1
    if status != 200 and not json.loads(body)["error"].endswith((".", "…")):
        tally.failures.append(f"{planned.kind}: {status} without a sentence: {body[:200]!r}")


async def send_half(url: str, planned: Planned) -> None:
    """Send the head and a part of the body, and go away."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/images HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(planned.body)}\r\n\r\n".encode() + planned.body[: len(planned.body) // 2])
    await writer.drain()
    writer.close()


async def load(server: Server, requests: list[Planned], clients: int, tally: Tally) -> float:
    """Send all requests from so many clients at once; return the seconds that took."""
    start = time.perf_counter()
    waiting: Iterator[Planned] = iter(requests)

    async def watch() -> None:
        while True:
            tally.memory.append((time.perf_counter() - start, server.megabytes()))
            await asyncio.sleep(0.25)

    async def client(session: aiohttp.ClientSession) -> None:
        for planned in waiting:
            while (pause := await send(session, server.url, planned, tally)) is not None:
                await asyncio.sleep(pause)

    watcher = asyncio.create_task(watch())
    async with new_session(server.url, clients) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    watcher.cancel()
    return time.perf_counter() - start


def new_session(url: str, clients: int) -> aiohttp.ClientSession:
    """Return a session for so many clients."""
    limits = aiohttp.ClientTimeout(total=120)
    return aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=clients), timeout=limits)


async def check_metrics(url: str, tally: Tally) -> dict[str, float]:
    """Wait until the server is idle, and compare its counts with the clients'; return the counts by status."""
    for _ in range(200):
        found = await metrics(url)
        if found["himar_lanes_busy"] == found["himar_queue_length"] == 0:
            break
        await asyncio.sleep(0.05)
    else:
        tally.failures.append("lanes are still busy 10 s after the last client left.")
    counted = {name.split()[1]: value for name, value in found.items() if name.startswith("himar_requests_total ")}
    for status, seen in tally.statuses.items():
        # A client that leaves may have been answered just then.
        if not 0 <= counted.get(str(status), 0) - seen <= tally.left:
            tally.failures.append(f"/metrics counts {counted.get(str(status), 0):g} answers {status}, clients {seen}.")
    return counted


async def drain(server: Server, classes: int, tally: Tally) -> dict[str, int]:
    """Send SIGTERM to a full server: what was sent before must be answered, what comes later is refused."""
    before = plan_requests(12, classes, 1, 0.0, 0.0)
    answers: Counter[str] = Counter()
    session = new_session(server.url, 24)

    async def ask(planned: Planned, early: bool) -> None:
        try:
            async with session.post("/v1/images", data=planned.body, headers=planned.headers) as response:
                await response.read()
                outcome = str(response.status)
        except aiohttp.ClientError:
            outcome = "no connection"
        answers[f"{'before' if early else 'after'} SIGTERM: {outcome}"] += 1
        if early and outcome not in ("200", "429"):
            tally.failures.append(f"a request sent before SIGTERM got: {outcome}.")
        if not early and outcome not in ("503", "no connection"):
            tally.failures.append(f"a request sent after SIGTERM got: {outcome}.")

    slow = [_longer(planned) for planned in before]
    first = [asyncio.create_task(ask(planned, True)) for planned in slow]
    while (await metrics(server.url))["himar_queue_length"] == 0 and not all(task.done() for task in first):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)  # all of them have arrived
    server.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.1)
    await asyncio.gather(*first, *(ask(planned, False) for planned in before))
    await session.close()
    code = await asyncio.wait_for(server.process.wait(), 60)
    if code != 0:
        tally.failures.append(f"the server ended with exit code {code}.")
    return {**answers, "exit code": code}


def _longer(planned: Planned) -> Planned:
    body = {**json.loads(planned.body), "low_diffusion_steps": 10, "high_diffusion_steps": 20, "high_steps": 2}
    return Planned(planned.kind, json.dumps(body).encode(), planned.headers)


async def measure(command: tuple[str, ...], log: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Run the load and return the report."""
    tally = Tally()
    async with running(command, log) as server:
        async with aiohttp.ClientSession(server.url) as session, session.get("/v1/model") as response:
            classes = (await response.json())["classes"]
        # Buffers grow to what all lanes need at once, which random requests ask for by chance and late.
        warm = [largest_request()] * options["warm_up"]
        await load(server, warm, options["clients"], tally)
        for each in (tally.outcomes, tally.seconds, tally.memory):
            each.clear()
        requests = plan_requests(options["requests"], classes, options["seed"], options["bad"], options["leave"])
        seconds = await load(server, requests, options["clients"], tally)
        counted = await check_metrics(server.url, tally)
        in_company, joined = tally.images.repeated, await metrics(server.url)
        await load(server, tally.images.asked, 1, Tally(images=tally.images, failures=tally.failures))  # each alone
        ending = await drain(server, classes, tally)
    growth = memory_growth(tally.memory)
    if growth["growth"] > FLAT and len(requests) >= LONG:
        tally.failures.append(f"memory grew: {growth}.")
    for limit, worst in ((1, tally.images.worst_pixel), (1e-4, tally.images.worst_latent)):
        if worst > limit:
            tally.failures.append(f"the same request gave images that differ by {worst}.")
    shares = (("p50", 50), ("p95", 95), ("p99", 99)) if tally.seconds else ()
    return {
        "requests": len(requests), "seconds": round(seconds, 1), "per_second": round(len(requests) / seconds, 1),
        "outcomes": dict(tally.outcomes.most_common()),
        "seconds_of_200": {name: round(float(np.percentile(tally.seconds, q)), 4) for name, q in shares},
        "images_compared": in_company, "compared_alone": tally.images.repeated - in_company,
        "unequal": tally.images.unequal, "worst_pixel": tally.images.worst_pixel,
        "worst_latent": tally.images.worst_latent, "memory_mb": growth, "counted_by_server": counted,
        "requests_per_call": _requests_per_call(joined), "drain": ending, "failures": tally.failures,
    }  # fmt: skip


def _requests_per_call(found: dict[str, float]) -> float | None:
    """None of a server that does not say."""
    calls = found.get("himar_batch_requests_count")
    return round(found["himar_batch_requests_sum"] / calls, 2) if calls else None


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--server", default="python", show_default=True, help="python, or the path of another himar-serve.")
@click.option("--requests", default=10_000, show_default=True, type=click.IntRange(10))
@click.option("--lanes", default=4, show_default=True, type=click.IntRange(1))
@click.option("--queue", default=4, show_default=True, type=click.IntRange(1), help="Waiting requests per lane.")
@click.option("--clients", default=24, show_default=True, type=click.IntRange(1), help="Requests under way at once.")
@click.option("--warm-up", default=200, show_default=True, type=click.IntRange(0), help="Largest requests before.")
@click.option("--bad", default=0.1, show_default=True, type=click.FloatRange(0, 1), help="Share of bad requests.")
@click.option("--leave", default=0.1, show_default=True, type=click.FloatRange(0, 1), help="Share of clients that go.")
@click.option("--seed", default=0, show_default=True, help="Of the random requests.")
@click.option("--log", type=click.Path(path_type=Path), help="File for the server's log; thrown away if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def main(bundle: Path, server: str, lanes: int, queue: int, log: Path | None, as_json: bool, **options: Any) -> None:
    """Load a server of BUNDLE and report."""
    program = PYTHON if server == "python" else (server,)
    # A machine that is busy with other things may be slow; it is not to look as if answers were missing.
    limits = ("--timeout", "120", "--drain-seconds", "60", "--lanes", str(lanes), "--queue", str(queue))
    command = (*program, str(bundle), "--port", "0", "--threads", "1", *limits)
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(measure(command, log or Path(folder) / "log", options))
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        for name, value in report.items():
            click.echo(f"{name}: {value}")
    sys.exit(1 if report["failures"] else 0)


if __name__ == "__main__":
    main()
