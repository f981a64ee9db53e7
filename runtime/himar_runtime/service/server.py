"""The HTTP server: its paths and answers; listens, says when it is ready, drains at SIGTERM and Ctrl-C, ends."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable
from types import FrameType

import prometheus_client
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from himar_kernels import HimarError, InputError

from .accounts import IMAGES_PATH, Accounts, Exchange
from .accounts import log as requests_log
from .answer import JSON, refusal
from .metrics import CONTENT_TYPE
from .request import RefusalError, check_content_type, read_request
from .service import ClientGoneError, Service, Settings

_READ = ["GET", "HEAD"]
_SECONDS_TO_SEND = 5  # for clients that are slow to take their answers when the server ends


class ListenError(HimarError):
    """The server cannot listen at the address that it was given."""


def serve(settings: Settings, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Load a bundle and serve it until SIGTERM or SIGINT; return when everything accepted is answered.

    Args:
        port: 0 takes any free one.
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
    requests_log.setLevel(logging.INFO)


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
        raise RefusalError(411, "the request says no Content-Length; send one, or a chunked body.")
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
        sentence = f"{request.method} does not go with {path}; use {allowed}."
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
