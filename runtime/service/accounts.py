"""What is kept of every request: its id, the counts, one line in the log; and the last resort when a handler fails."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, field

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answer import JSON, refusal
from .job import Job
from .metrics import CLIENT_GONE, Metrics
from .service import ClientGoneError, Service

IMAGES_PATH = "/v1/images"

log = logging.getLogger(__name__)


@dataclass
class Exchange:
    """A request and what became of it, filled in while it is handled.

    Attributes:
        id: for the header X-Request-Id and the log.
        start: time.monotonic() when its head had arrived.
        job: once it was accepted.
        images: in its answer.
        status: of its answer; 0 until that is sent.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex[:16])
    start: float = field(default_factory=time.monotonic)
    job: Job | None = None
    images: int = 0
    status: int = 0


class Accounts:
    """ASGI middleware around all routes. A handler finds its exchange at `request.state.exchange`."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        exchange = Exchange()
        scope.setdefault("state", {})["exchange"] = exchange

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = exchange.id
                if self._service.draining:
                    headers["Connection"] = "close"  # so that a client that keeps connections open goes elsewhere
                if scope["path"] == IMAGES_PATH:
                    record(exchange, exchange.status, self._service.metrics)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientGoneError:
            record(exchange, CLIENT_GONE, self._service.metrics)
        except Exception as error:
            log.exception("request %s failed unexpectedly", exchange.id)
            if exchange.status == 0:
                await _send_failure(error, send_with_id)
        return None


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


async def _send_failure(error: Exception, send: Send) -> None:
    answer = refusal(f"the server failed with an unexpected {type(error).__name__}; its log says more.")
    headers = [(b"content-type", JSON.encode()), (b"content-length", str(len(answer.body)).encode())]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
