"""Wraps every request: its id, who may ask, the counts, a line in the log, headers for browsers, the last resort."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import paths
from .answer import Answer
from .job import Job
from .log import REQUESTS
from .metrics import CLIENT_GONE, Metrics
from .origins import Origins, preflight_headers
from .refusals import refuse
from .request import RefusalError
from .service import ClientGoneError, Service
from .stages import server_timing
from .tokens import require_token

_ID = re.compile("[A-Za-z0-9._-]{1,128}")

log = logging.getLogger(__name__)


@dataclass
class Exchange:
    """A request and what became of it, filled in while it is handled.

    Attributes:
        id: for the header X-Request-Id and the log: the caller's, or a new one.
        method, path: of it, without the prefix of a proxy.
        start: time.monotonic() when its head had arrived.
        job: once it was accepted.
        answer: with images, once there is one.
        status: of its answer; 0 until that is sent. Of a stream that failed the one that its failure would have had.
        streams: its end is not the beginning of its answer.
    """

    id: str
    method: str
    path: str
    start: float = field(default_factory=time.monotonic)
    job: Job | None = None
    answer: Answer | None = None
    status: int = 0
    streams: bool = False


def request_id(sent: Sequence[str]) -> str:
    """Return the caller's id, of the request's X-Request-Id headers; a new one unless that is one plain id."""
    return sent[0] if len(sent) == 1 and _ID.fullmatch(sent[0]) else uuid.uuid4().hex[:16]


class Accounts:
    """ASGI middleware around all routes. A handler finds its exchange at `request.state.exchange`."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._origins = Origins(service.settings.allow_origin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        sent = Headers(scope=scope)
        path = paths.without_root(scope["path"], self._service.settings.root_path)
        exchange = Exchange(request_id(sent.getlist("x-request-id")), scope["method"], path)
        scope = {**scope, "path": path, "state": {**scope.get("state", {}), "exchange": exchange}}
        preflight = self._origins.is_preflight(scope["method"], sent) and paths.methods(path) is not None
        counted = path in paths.COUNTED and not preflight

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = exchange.id
                for name, value in self._origins.headers(sent.get("origin")).items():
                    headers[name] = value
                if exchange.answer is not None:
                    headers["Server-Timing"] = server_timing(exchange.answer.seconds)
                if self._service.draining or self._service.settings.keep_alive == 0:
                    headers["Connection"] = "close"  # so that a client that keeps connections open goes elsewhere
                if counted and not exchange.streams:
                    record(exchange, exchange.status, self._service.metrics)
            await send(message)

        try:
            if path == "":
                await _send_to_page(self._service.settings.root_path, send_with_id)
            elif preflight:
                await self._answer_preflight(sent["origin"], path, send_with_id)
            elif (refused := self._refused(path, sent)) is not None:
                await _send_refusal(path, refused, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
            if counted and exchange.streams:
                record(exchange, exchange.status, self._service.metrics)
        except ClientGoneError:
            record(exchange, CLIENT_GONE, self._service.metrics)
        except asyncio.CancelledError:  # by a server that tells so of a client that has gone
            if counted:
                record(exchange, CLIENT_GONE, self._service.metrics)
            raise
        except Exception as error:
            log.exception("request %s failed unexpectedly", exchange.id)
            if exchange.status == 0:
                sentence = f"the server failed with an unexpected {type(error).__name__}; its log says more."
                await _send_refusal(path, RefusalError(500, sentence), send_with_id)
        return None

    def _refused(self, path: str, sent: Headers) -> RefusalError | None:
        """Return why nobody without a token is answered, if this is such a request."""
        if paths.needs_token(path):
            try:
                require_token(sent.get("authorization"), self._service.settings.tokens)
            except RefusalError as error:
                return error
        return None

    async def _answer_preflight(self, origin: str, path: str, send: Send) -> None:
        if not self._origins.allows(origin):
            sentence = f"pages of {origin!r} may not use this server; start it with --allow-origin for them."
            return await _send_refusal(path, RefusalError(403, sentence), send)
        methods = paths.methods(path)
        assert methods is not None  # else it would not be a preflight
        headers = [(name.lower().encode(), value.encode()) for name, value in preflight_headers(methods).items()]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def record(exchange: Exchange, status: int, metrics: Metrics) -> None:
    """Count an answered request and write its line."""
    now = time.monotonic()
    metrics.requests.labels(str(status)).inc()
    job, answer = exchange.job, exchange.answer
    if job is not None and status != CLIENT_GONE:
        metrics.request_seconds.observe(now - job.accepted)
    queued = 0.0 if job is None or job.queued is None else job.queued
    images = 0 if answer is None else answer.images
    seconds = now - exchange.start
    values = {
        "id": exchange.id, "method": exchange.method, "path": exchange.path, "status": status, "images": images,
        "queued": round(queued, 6), "seconds": round(seconds, 6),
        "stages": {} if answer is None else {name: round(each, 6) for name, each in answer.seconds.items()},
    }  # fmt: skip
    REQUESTS.info(
        "%s %d images=%d queued=%.3f seconds=%.3f", exchange.id, status, images, queued, seconds,
        extra={"request": values},
    )  # fmt: skip


async def _send_to_page(root: str, send: Send) -> None:
    """Send who asks for /PART to /PART/, below which the page finds its files; relative, whatever host a proxy has."""
    location = f"{root.rpartition('/')[2]}/".encode()
    await send({"type": "http.response.start", "status": 308, "headers": [(b"location", location)]})
    await send({"type": "http.response.body", "body": b""})


async def _send_refusal(path: str, error: RefusalError, send: Send) -> None:
    answer = refuse(path, error)
    fields = {"Content-Type": answer.media_type, "Content-Length": str(len(answer.body)), **answer.headers}
    headers = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
