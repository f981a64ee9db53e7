"""Sends one request to a server and notes what came back, and when."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp

from himar_kernels import InputError

Api = Literal["himar", "openai"]

_PATHS: dict[Api, str] = {"himar": "/v1/images", "openai": "/v1/images/generations"}
_PATIENCE = aiohttp.ClientTimeout(total=30)  # for what a server answers at once
_STAGE = re.compile(r"([^;,=\s]+)\s*;\s*dur=([0-9]+(?:\.[0-9]+)?)\s*(?=[;,]|$)")
_FIRST_STAGE, _LAST_STAGE = "queue", "encode"
_EVENT = re.compile(rb"event:.*?\n\n", re.DOTALL)
_COMPLETED = "image_generation.completed"


@dataclass(frozen=True)
class Wanted:
    """What every request asks for.

    Attributes:
        images: of one request.
        sampling: name of the bundle's settings; None is its default.
        partial_images: unfinished images that are streamed before the last; None streams nothing.
        changes: further keys of the body.
    """

    api: Api = "himar"
    images: int = 1
    sampling: str | None = None
    partial_images: int | None = None
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Path of the requests."""
        return _PATHS[self.api]

    def body(self, what: list[int] | list[str], seed: int) -> bytes:
        """Return the body of a request for images of classes or texts; one of OpenAI's is for the first of them."""
        if self.api == "himar":
            key = "prompts" if isinstance(what[0], str) else "labels"
            values: dict[str, Any] = {key: what, "seed": seed}
            named = "sampling"
        else:
            values = {"prompt": str(what[0]), "n": self.images, "seed": seed}
            named = "quality"
            if self.partial_images is not None:
                values |= {"stream": True, "partial_images": self.partial_images}
        if self.sampling is not None:
            values[named] = self.sampling
        return json.dumps({**values, **self.changes}).encode()


@dataclass(frozen=True)
class Answered:
    """What became of one request; times are seconds.

    Attributes:
        status: HTTP status; 0 where there was no answer. Of a stream that failed midway 0 too.
        images: that it was answered with.
        seconds: from when it was to be sent to the end of its answer.
        first: to the end of the first event of a stream; None without one.
        stages: seconds of the server's stages, as its header Server-Timing says.
        reason: why it failed, None where it did not.
    """

    status: int
    images: int
    seconds: float
    first: float | None = None
    stages: dict[str, float] = field(default_factory=dict)
    reason: str | None = None


async def ask(session: aiohttp.ClientSession, url: str, wanted: Wanted, body: bytes, due: float) -> Answered:
    """Send a request to the server at `url` and read its answer; its seconds count from `due` (time.perf_counter())."""
    clock: Callable[[], float] = time.perf_counter
    try:
        async with session.post(url + wanted.path, data=body, headers={"Content-Type": "application/json"}) as response:
            first, content = None, b""
            if response.content_type == "text/event-stream":
                # Before the first event there may be comments, which keep the connection alive.
                while not _EVENT.search(content) and (chunk := await response.content.readany()):
                    content += chunk
                first = clock() - due
            content += await response.read()
            seconds = clock() - due
            stages = _stages(", ".join(response.headers.getall("Server-Timing", [])))
            status = response.status
    except (aiohttp.ClientError, TimeoutError) as error:
        return Answered(0, 0, clock() - due, reason=str(error) or type(error).__name__)
    images, reason = _images(status, content, wanted)
    return Answered(0 if reason and status == 200 else status, images, seconds, first, stages, reason)


def _stages(timing: str) -> dict[str, float]:
    """Return the seconds of the server's stages; proxies on the way may tell of their own before and after them."""
    found = {name: float(milliseconds) / 1000 for name, milliseconds in _STAGE.findall(timing)}
    names = list(found)
    if _FIRST_STAGE not in found or _LAST_STAGE not in found:
        return {}
    return {name: found[name] for name in names[names.index(_FIRST_STAGE) : names.index(_LAST_STAGE) + 1]}


def _images(status: int, content: bytes, wanted: Wanted) -> tuple[int, str | None]:
    """Return how many images an answer has, and why it is none that was asked for."""
    try:
        streamed = content.startswith((b"event:", b":"))
        values = _last_event(content) if streamed else json.loads(content)
        error = values.get("error")
        if error is not None:
            return 0, error["message"] if isinstance(error, dict) else str(error)
        if status != 200:
            return 0, f"status {status}"
        if streamed and values["type"] != _COMPLETED:
            return 0, "a stream that ended before its last image"
        found = 1 if streamed else len(values["data" if wanted.api == "openai" else "images"])
    except (ValueError, KeyError, AttributeError, TypeError):
        return 0, f"an answer that is none of himar-serve's, with status {status}"
    if found != wanted.images:
        return found, f"{found} images in place of {wanted.images}"
    return found, None


def _last_event(content: bytes) -> Any:
    lines = [line for line in content.decode().splitlines() if line.startswith("data: ")]
    return json.loads(lines[-1][len("data: ") :])


async def describe(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """Return what GET /v1/model says. InputError where no himar-serve answers."""
    try:
        async with session.get(f"{url}/v1/model", timeout=_PATIENCE) as response:
            status, content = response.status, await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        why = str(error) or "no answer in time"
        raise InputError(f"{url} does not answer: {why}; start himar-serve there, or give its address.") from error
    if status == 401:
        raise InputError(f"{url} wants a token; give a file that holds one with --token-file.")
    try:
        values = json.loads(content)
    except ValueError:
        values = None
    if not isinstance(values, dict) or "max_batch" not in values:
        raise InputError(f"{url} answers, but not as himar-serve does; give the address of one.")
    return values


async def calls(session: aiohttp.ClientSession, url: str) -> tuple[float, float, float] | None:
    """Return the engines' calls so far, and requests and images in them; None where /metrics does not tell."""
    names = ("himar_batch_requests_count", "himar_batch_requests_sum", "himar_batch_images_sum")
    try:
        async with session.get(f"{url}/metrics", timeout=_PATIENCE) as response:
            lines = (await response.text()).splitlines()
        found = dict(line.split(" ", 1) for line in lines if line.startswith(names))
        count, requests, images = (float(found[name]) for name in names)
    except (aiohttp.ClientError, TimeoutError, KeyError, ValueError):
        return None
    return count, requests, images
