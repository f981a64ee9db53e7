"""Runs the service as replicas of Ray Serve, on as many machines as a cluster has: docs/ray.md.

    serve run himar_runtime.service.ray_serve:app bundle=/models/bundle replicas=4 device=cuda

Each replica is a process with a bundle, its lanes and its queue, like one `himar-serve`; Serve's proxies take the
requests, and give each to the less busy of two replicas. Nothing else imports Ray: pip install 'himar[ray]'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click
import prometheus_client
from fastapi import FastAPI
from ray import serve

from himar_kernels import InputError

from .cli import cli, read_settings
from .log import log_to_stderr
from .server import create_app
from .service import Service, Settings

_OF_SERVE = ("host", "port", "keep_alive")
_MOST_REPLICAS = 65_536
_MOST_JOINED = 256  # requests that a lane's call may have, where only the bundle says
_BESIDES = 64  # requests of a replica besides those that its lanes have or that wait: health, metrics, bodies under way
_SECONDS_TO_SEND = 5


@dataclass(frozen=True)
class Deployment:
    """What the arguments of `app` ask for: the settings of each replica, how many, and what Ray keeps free for one."""

    settings: Settings
    log_json: bool
    replicas: int
    cpus: float
    gpus: float

    @classmethod
    def read(cls, args: Mapping[str, Any]) -> Deployment:
        """Read arguments by the names of `himar-serve`'s options, with _ or -; and replicas, cpus, gpus.

        Raises InputError for what himar-serve would refuse, for an unknown name, and for what Serve decides.
        """
        given = {name.replace("-", "_"): value for name, value in args.items()}
        for name in _OF_SERVE:
            if name in given:
                raise InputError(f"{name} is Ray Serve's; set it in http_options of its configuration (docs/ray.md).")
        replicas = _number(given, "replicas", 1, int, 1, _MOST_REPLICAS)
        own = {name: given.pop(name, None) for name in ("cpus", "gpus")}
        if "bundle" not in given:
            raise InputError("bundle is missing; give the path that it has on every machine, bundle=/PATH.")
        given.setdefault("threads", 1)
        parsed = _parsed(str(given.pop("bundle")), given)
        log_json = parsed.pop("log_json")
        settings = read_settings(**{name: value for name, value in parsed.items() if name not in ("host", "port")})
        on_gpu = settings.device != "cpu"
        if ":" in settings.device:
            raise InputError(f"device is {settings.device}, but Ray chooses the GPUs; give cuda.")
        cpus = _number(own, "cpus", settings.lanes * (settings.threads or 1), float, 0, 4096)
        gpus = _number(own, "gpus", float(on_gpu), float, 0, 64)
        if on_gpu != (gpus > 0):
            raise InputError(
                f"device is {settings.device}, but gpus is {gpus:g}; a replica on cuda needs a share of one."
            )
        return cls(settings, log_json, int(replicas), cpus, gpus)


def app(args: Mapping[str, Any]) -> serve.Application:
    """Return the application for `serve run` and `import_path` of a configuration. Raises InputError."""
    asked = Deployment.read(args)
    settings = asked.settings
    replica = serve.deployment(serve.ingress()(Replica)).options(
        name="himar",
        num_replicas=asked.replicas,
        ray_actor_options={"num_cpus": asked.cpus, "num_gpus": asked.gpus},
        max_ongoing_requests=settings.lanes * (settings.queue + (settings.max_batch or _MOST_JOINED)) + _BESIDES,
        graceful_shutdown_timeout_s=settings.drain_seconds + _SECONDS_TO_SEND,
    )
    return replica.bind(settings, asked.log_json)


class Replica:
    """One copy of the service. Serve stops giving it requests, waits for those it has, and then ends it."""

    def __init__(self, settings: Settings, log_json: bool) -> None:
        """Load the bundle. Raises BundleError, EngineError or InputError."""
        log_to_stderr(log_json)
        prometheus_client.disable_created_metrics()  # of this process, as in himar-serve
        self._service = Service(settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """See serve.ingress."""
        return create_app(self._service)

    def check_health(self) -> None:
        """Raise EngineError when a lane has ended: Serve replaces the replica."""
        self._service.require_lanes()

    async def __del__(self) -> None:
        if hasattr(self, "_service"):
            await self._service.drain()


def _parsed(bundle: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of `himar-serve` as its command line would read them."""
    known = {flag.lstrip("-").replace("-", "_") for each in cli.params for flag in each.opts} - {"version", *_OF_SERVE}
    command = []
    for name, value in options.items():
        if name not in known:
            names = ", ".join((*sorted(known), "replicas", "cpus", "gpus"))
            raise InputError(f"there is no argument {name!r}; there are {names}.")
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool) or (name == "log_json" and str(value).lower() in ("true", "false")):
            command += [flag] if str(value).lower() == "true" else []
        else:
            command += [f"{flag}={each}" for each in (value if isinstance(value, list | tuple) else [value])]
    try:
        with cli.make_context("himar-serve", [*command, "--", bundle]) as context:
            return dict(context.params)
    except click.ClickException as error:
        raise InputError(error.format_message()) from error


def _number(given: dict[str, Any], name: str, default: float, kind: type, least: float, most: float) -> float:
    """Take a number out of the arguments, which a command line gives as text."""
    value = given.pop(name, None)
    if value is None:
        return default
    try:
        number: float = kind(str(value))
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        word = "a whole number" if kind is int else "a number"
        raise InputError(f"{name} is {value!r}; it must be {word} from {least:g} to {most:g}.")
    return number
