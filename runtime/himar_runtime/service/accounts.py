"""Wraps every request: its id, the counts, one line in the log, headers for browsers, the last resort."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answer import JSON, refusal
from .job import Job
from .metrics import CLIENT_GONE, Metrics
from .origins import Origins, preflight_headers
from .service import ClientGoneError, Service

IMAGES_PATH = "/v1/images"
METHODS = {IMAGES_PATH: "POST", "/v1/model": "GET, HEAD", "/healthz": "GET, HEAD", "/metrics": "GET, HEAD"}
_ID = re.compile("[A-Za-z0-9._-]{1,128}")

log = logging.getLogger(__name__)


@dataclass
class Exchange:
    """A request and what became of it, filled in while it is handled.

    Attributes:
        id: for the header X-Request-Id and the log: the caller's, or a new one.
        start: time.monotonic() when its head had arrived.
        job: once it was accepted.
        images: in its answer.
        status: of its answer; 0 until that is sent.
    """

    id: str
    start: float = field(default_factory=time.monotonic)
    job: Job | None = None
    images: int = 0
    status: int = 0


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
        exchange = Exchange(request_id(sent.getlist("x-request-id")))
        scope.setdefault("state", {})["exchange"] = exchange
        preflight = self._origins.is_preflight(scope["method"], sent) and scope["path"] in METHODS

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = exchange.id
                for name, value in self._origins.headers(sent.get("origin")).items():
                    headers[name] = value
                if self._service.draining or self._service.settings.keep_alive == 0:
                    headers["Connection"] = "close"  # so that a client that keeps connections open goes elsewhere
                if scope["path"] == IMAGES_PATH and not preflight:
                    record(exchange, exchange.status, self._service.metrics)
            await send(message)

        try:
            if preflight:
                await self._answer_preflight(sent["origin"], METHODS[scope["path"]], send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        except ClientGoneError:
            record(exchange, CLIENT_GONE, self._service.metrics)
        except Exception as error:
            log.exception("request %s failed unexpectedly", exchange.id)
            if exchange.status == 0:
                sentence = f"the server failed with an unexpected {type(error).__name__}; its log says more."
                await _send_refusal(500, sentence, send_with_id)
        return None

    async def _answer_preflight(self, origin: str, methods: str, send: Send) -> None:
        if not self._origins.allows(origin):
            sentence = f"pages of {origin!r} may not use this server; start it with --allow-origin for them."
            return await _send_refusal(403, sentence, send)
        headers = [(name.lower().encode(), value.encode()) for name, value in preflight_headers(methods).items()]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def record(exchange: Exchange, status: int, metrics: Metrics) -> None:
    """Count an answered request and write its line."""
    now = time.monotonic()
    metrics.requests.labels(str(status)).inc()
    job = exchange.job
    if job is not None and status != CLIENT_GONE:
        metrics.request_seconds.observe(now - job.accepted)
    queued = 0.0 if job is None or job.queued is None else job.queued
    log.info(
        "%s %d images=%d queued=%.3f seconds=%.3f",
        exchange.id, status, exchange.images, queued, now - exchange.start,
    )  # fmt: skip


async def _send_refusal(status: int, sentence: str, send: Send) -> None:
    body = refusal(sentence).body
    headers = [(b"content-type", JSON.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
