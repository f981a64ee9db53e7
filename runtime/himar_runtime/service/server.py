"""Runs the HTTP server: its paths, and the process that listens, says when it is ready, drains at signals and ends.

It wraps every request: its id, the counts, one line in the log, headers for browsers, the last resort.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType

import prometheus_client
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from himar_kernels import HimarError, InputError

from .answer import JSON, refusal
from .job import Job
from .metrics import CLIENT_GONE, CONTENT_TYPE, Metrics
from .origins import Origins, preflight_headers
from .request import RefusalError, check_content_type, read_request
from .service import ClientGoneError, Service, Settings

IMAGES_PATH = "/v1/images"
METHODS = {IMAGES_PATH: "POST", "/v1/model": "GET, HEAD", "/healthz": "GET, HEAD", "/metrics": "GET, HEAD"}
_ID = re.compile("[A-Za-z0-9._-]{1,128}")
_READ = ["GET", "HEAD"]
_SECONDS_TO_SEND = 5  # for clients that are slow to take their answers when the server ends

log = logging.getLogger(__name__)


class ListenError(HimarError):
    """The server cannot listen at the address that it was given."""


def serve(settings: Settings, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Load a bundle and serve it until SIGTERM or SIGINT; return when everything accepted is answered.

    Args:
        port: 0 picks a free one.
        announce: called with the server's address when it answers requests.

    Raises ListenError, BundleError or EngineError before anything is served.
    """
    prometheus_client.disable_created_metrics()  # of this process: one more series per counter that nobody asked for
    with bind(host, port) as listener:
        service: Service | None = None
        try:
            service = Service(settings)
            config = uvicorn.Config(
                create_app(service), loop="asyncio", http="h11", ws="none", lifespan="off", log_config=None,
                access_log=False, server_header=False, proxy_headers=False,
                timeout_graceful_shutdown=_SECONDS_TO_SEND, timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]
            )  # fmt: skip
            shown = f"[{host}]" if ":" in host else host
            address = f"http://{shown}:{listener.getsockname()[1]}"
            _Server(config, service, lambda: announce(address)).run([listener])
        finally:
            if service is not None:
                service.close()


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to the address, and refuses connections until it is listened to.

    Raises ListenError.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of an earlier server's closed connections
            bound.bind(address)
        except OSError:
            bound.close()
            raise
        return bound
    except OSError as error:
        raise ListenError(
            f"cannot listen at {host} port {port}: {error.strerror or error}; choose another --host or --port, "
            f"or --port 0 for any."
        ) from error


def log_to_stderr() -> None:
    """Write the requests' lines and everybody's warnings to stderr, each with its time (UTC). For a program's start."""
    formatter = logging.Formatter("%(asctime)s %(message)s")
    formatter.converter = time.gmtime
    formatter.default_time_format, formatter.default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log.setLevel(logging.INFO)


class _Server(uvicorn.Server):
    """uvicorn, but a signal drains the service before the sockets close: until then it says 503 to who asks."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._ready = ready
        self._ending: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called in the signal handler, so the work is left to the event loop."""
        self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if self._ending is None:
            self._ending = self._loop.create_task(self._drain())
        else:
            self._service.hurry()

    async def _drain(self) -> None:
        await self._service.drain()
        self.should_exit = True


def create_app(service: Service) -> FastAPI:
    """Return the ASGI application of a service."""
    app = FastAPI(title="himar", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(Accounts, service=service)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(HimarError, _himar_error)

    @app.post(IMAGES_PATH)
    async def images(request: Request) -> Response:
        exchange: Exchange = request.state.exchange
        service.refuse_when_draining()
        check_content_type(request.headers.get("content-type", ""), request.headers.get("content-encoding", ""))
        body = await _read_body(request, service.settings.max_body, service.settings.timeout)
        accept = ",".join(request.headers.getlist("accept"))
        wanted = read_request(body, accept, service.manifest, service.settings.max_images)
        exchange.job = service.accept(wanted)
        answer = await service.answer(exchange.job, lambda: _disconnected(request))
        exchange.images = answer.images
        return Response(answer.body, media_type=answer.media_type, headers=answer.headers)

    @app.api_route("/v1/model", methods=_READ)
    async def model() -> Response:
        return JSONResponse(service.describe())

    @app.api_route("/healthz", methods=_READ)
    async def healthz() -> Response:
        if service.draining:
            return JSONResponse({"status": "draining"}, 503)
        return JSONResponse({"status": "ok"})

    @app.api_route("/metrics", methods=_READ)
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return app


async def _read_body(request: Request, most: int, seconds: float) -> bytes:
    """Read a body of at most `most` bytes that arrives within `seconds`."""
    declared = request.headers.get("content-length")
    if declared is None and "chunked" not in request.headers.get("transfer-encoding", "").lower():
        raise RefusalError(411, "the request has no Content-Length; send one, or a chunked body.")
    if declared is not None and int(declared) > most:
        raise RefusalError(413, f"the body has {declared} bytes; send at most {most}.")
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise RefusalError(
                        413, f"the body has more than {most} bytes; send fewer.", {"Connection": "close"}
                    )
    except TimeoutError:
        raise RefusalError(
            400, f"the body did not arrive within {seconds:g} s; send it without a pause.", {"Connection": "close"}
        ) from None
    except ClientDisconnect:
        raise ClientGoneError from None
    return bytes(body)


async def _disconnected(request: Request) -> None:
    """Return when the client has gone; the body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = json.dumps(request.url.path)
    if error.status_code == 404:
        sentence = f"there is no path {path}; there are {IMAGES_PATH}, /v1/model, /healthz and /metrics."
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        sentence = f"{path} does not take {request.method}; use {allowed}."
    else:
        sentence = f"{error.detail}."
    return _answer(error.status_code, sentence, error.headers)


async def _himar_error(request: Request, error: Exception) -> Response:
    if isinstance(error, RefusalError):
        return _answer(error.status, str(error), error.headers)
    return _answer(400 if isinstance(error, InputError) else 500, str(error))


def _answer(status: int, sentence: str, headers: object = None) -> Response:
    extra = dict(headers) if isinstance(headers, dict) else None
    return Response(refusal(sentence).body, status, extra, JSON)


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
