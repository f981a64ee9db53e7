"""Runs the HTTP server: its paths, and the process that listens, says when it is ready, drains at signals and ends."""

from __future__ import annotations

import asyncio
import functools
import json
import socket
from collections.abc import Callable
from types import FrameType

import prometheus_client
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from himar_kernels import HimarError

from . import paths
from .accounts import Accounts, Exchange
from .answer import encode
from .body import disconnected, read_body
from .metrics import CONTENT_TYPE
from .openai.routes import add_routes
from .page.routes import add_page
from .refusals import as_refusal, refuse
from .request import RefusalError, check_content_type, read_request
from .service import Service, Settings

_READ = ["GET", "HEAD"]
_SECONDS_TO_SEND = 5  # for clients that are slow to take their answers when the server ends


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

    @app.post(paths.IMAGES)
    async def images(request: Request) -> Response:
        exchange: Exchange = request.state.exchange
        service.refuse_when_draining()
        check_content_type(request.headers.get("content-type", ""), request.headers.get("content-encoding", ""))
        body = await read_body(request, service.settings.max_body, service.settings.timeout)
        accept = ",".join(request.headers.getlist("accept"))
        wanted = read_request(body, accept, service.manifest, service.settings.max_images)
        exchange.job = service.accept(wanted, functools.partial(encode, wanted))
        answer = exchange.answer = await service.answer(exchange.job, lambda: disconnected(request))
        return Response(answer.body, media_type=answer.media_type, headers=answer.headers)

    @app.api_route(paths.MODEL, methods=_READ)
    async def model() -> Response:
        return JSONResponse(service.describe())

    @app.api_route(paths.HEALTH, methods=_READ)
    async def healthz() -> Response:
        status = "draining" if service.draining else "broken" if service.broken else "ok"
        return JSONResponse({"status": status}, 200 if status == "ok" else 503)

    @app.api_route(paths.LIVE, methods=_READ)
    async def live() -> Response:
        return JSONResponse({"live": not service.broken}, 503 if service.broken else 200)

    @app.api_route(paths.READY, methods=_READ)
    async def ready() -> Response:
        takes = not service.draining and not service.broken
        return JSONResponse({"ready": takes}, 200 if takes else 503)

    @app.api_route(paths.METRICS, methods=_READ)
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    add_routes(app, service)
    add_page(app)
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = json.dumps(request.url.path)
    if error.status_code == 404:
        sentence = f"there is no path {path}; there are {paths.known()}."
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        sentence = f"{path} does not take {request.method}; use {allowed}."
    else:
        sentence = f"{error.detail}."
    return _answer(request, RefusalError(error.status_code, sentence, error.headers))


async def _himar_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HimarError)
    return _answer(request, as_refusal(error))


def _answer(request: Request, error: RefusalError) -> Response:
    answer = refuse(request.url.path, error)
    return Response(answer.body, error.status, answer.headers, answer.media_type)
