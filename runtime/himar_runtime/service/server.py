"""Runs the process: listens, says when it is ready, drains at SIGTERM and Ctrl-C, ends."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from types import FrameType

import prometheus_client
import uvicorn

from himar_kernels import HimarError

from .accounts import log as requests_log
from .app import create_app
from .service import Service, Settings

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
